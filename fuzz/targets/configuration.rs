//! Configuration files: whatever an operator writes is taken or refused with a place, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("grange.toml");
    match config::File::parse(path, text.to_owned()) {
        Ok(file) => {
            let _ = file.section::<serde_json::Value>("");
            let _ = file.section::<serde_json::Value>("router");
            for name in file.children("channel") {
                let _ = file.section::<serde_json::Value>(&format!("channel.{name}"));
            }
            let problem = config::Problem::new("router.routes[2].host", "is wrong", "another");
            assert!(file.locate(problem).to_string().starts_with("grange.toml:"));
        }
        Err(error) => assert!(error.to_string().starts_with("grange.toml:"), "{error}"),
    }
});
