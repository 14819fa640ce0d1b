//! The fuzz targets: built with coverage counters as cargo-fuzz does it, each run for some seconds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{cargo, succeeds, target_dir};
use crate::test::Count;
use crate::{Failure, root};

/// What makes the compiler count edges and comparisons for libFuzzer, with our own assertions on.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1";

/// The longest input tried, in bytes: over every line limit, short enough to be quick.
const INPUT_BYTES_MAX: u32 = 16 * 1024;

/// Builds all targets and runs each for `time`; one count for each.
pub(crate) fn run(time: Duration) -> Result<Count, Failure> {
    let targets = targets(&root().join("fuzz"))?;
    let target_dir = target_dir()?.join("fuzz");
    let triple = host()?;
    let mut build =
        cargo(&["build", "--quiet", "--release", "--manifest-path", "fuzz/Cargo.toml", "--bins"]);
    // The triple is named so that build scripts and macros are compiled without the counters.
    build.args(["--target", &triple]).arg("--target-dir").arg(&target_dir);
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS);
    if !succeeds(&mut build)? {
        return Ok(Count::one(false));
    }
    let mut count = Count::default();
    let scratch = Scratch::make(&target_dir)?;
    for target in targets {
        let corpus = target_dir.join("corpus").join(&target);
        std::fs::create_dir_all(&corpus)?;
        let seeds = root().join("fuzz").join("seeds").join(&target);
        let artifacts = target_dir.join("artifacts").join(&target);
        std::fs::create_dir_all(&artifacts)?;
        let mut command =
            std::process::Command::new(target_dir.join(&triple).join("release").join(&target));
        command
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .env("TMPDIR", &scratch.0)
            .arg("-timeout=5")
            .arg("-rss_limit_mb=1024")
            .arg("-verbosity=0")
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(&corpus);
        if seeds.is_dir() {
            command.arg(&seeds);
        }
        let output = command.output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        let runs =
            told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        println!("{target}: {} inputs in {} s", runs.unwrap_or("?").trim(), time.as_secs());
        let passed = output.status.success();
        if !passed {
            println!("{told}\n{target}: the input that broke it is in {}", artifacts.display());
        }
        count.add(Count::one(passed));
    }
    Ok(count)
}

/// Where targets write files: in memory if there is such a place. Removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(target_dir: &Path) -> Result<Self, Failure> {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { &memory } else { target_dir };
        let folder = base.join(format!("grange-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("xtask: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The names of the targets: one file each.
fn targets(fuzz: &Path) -> Result<Vec<String>, Failure> {
    let folder = fuzz.join("targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn host() -> Result<String, Failure> {
    let version = crate::process::output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not tell its host")?.to_owned())
}
