//! Templates, and what hostile addresses become in them.

use std::path::Component;

use proptest::prelude::*;

use super::*;

#[test]
fn templates_are_checked() {
    use TemplateError::*;
    for (text, error) in [
        ("{data_dir}/mail/{domain}/{user}/", None),
        ("/var/mail/{user}@{domain}/Maildir/", None),
        ("/var/mail/everything/", None),
        ("", Some(Relative)),
        ("mail/{user}/", Some(Relative)),
        ("{domain}/{user}/", Some(Relative)),
        ("{data_dir}mail/{user}/", Some(Relative)),
        ("/var/mail/{user}", Some(NotMaildir)),
        ("/var/../{user}/", Some(Path)),
        ("/var/\n/{user}/", Some(Path)),
        ("/var/{data_dir}/", Some(DataDir)),
        ("/var/{home}/", Some(Unknown("{home}".into()))),
        ("/var/{user/", Some(Brace)),
        ("/var/user}/", Some(Brace)),
        ("/var/}{user}/", Some(Brace)),
    ] {
        assert_eq!(Template::parse(text).err(), error, "{text}");
    }
}

#[test]
fn what_an_address_says_is_escaped() {
    let template = Template::parse("{data_dir}/mail/{domain}/{user}/").unwrap();
    let long = "ü".repeat(120);
    for (domain, user, path) in [
        ("Example.Test", "Ada", "/d/mail/example.test/ada/"),
        ("example.test", "ada+box", "/d/mail/example.test/ada+box/"),
        ("example.test", "..", "/d/mail/example.test/%2E./"),
        ("example.test", "../../etc", "/d/mail/example.test/%2E.%2F..%2Fetc/"),
        ("example.test", ".hidden", "/d/mail/example.test/%2Ehidden/"),
        ("example.test", "a b/c%2F", "/d/mail/example.test/a%20b%2Fc%252f/"),
        ("example.test", "", "/d/mail/example.test/%/"),
        ("[192.0.2.1]", "x\0y", "/d/mail/%5B192.0.2.1%5D/x%00y/"),
        ("bücher.example", "grün", "/d/mail/b%C3%BCcher.example/gr%C3%BCn/"),
    ] {
        assert_eq!(
            template.path(Path::new("/d"), domain, user),
            PathBuf::from(path),
            "{domain} {user}"
        );
    }
    let name = escaped(&long);
    assert!(name.len() <= NAME_BYTES_MAX && name.contains("%-"), "{name}");
    assert_ne!(name, escaped(&format!("{long}x")));
}

proptest! {
    #[test]
    fn no_name_leaves_its_directory(domain in "(?s).{0,300}", user in "(?s).{0,300}") {
        let template = Template::parse("/mail/{domain}/{user}/").unwrap();
        let path = template.path(Path::new("/nowhere"), &domain, &user);
        let components: Vec<Component<'_>> = path.components().collect();
        prop_assert_eq!(components.len(), 4, "{}", path.display());
        prop_assert!(components.iter().skip(1).all(|part| matches!(part, Component::Normal(_))));
        prop_assert!(path.file_name().unwrap().len() <= NAME_BYTES_MAX);
        prop_assert!(!path.to_str().unwrap().contains('\0'));
    }

    #[test]
    fn different_users_have_different_names(one in "[ -~]{1,64}", other in "[ -~]{1,64}") {
        prop_assume!(one.to_lowercase() != other.to_lowercase());
        prop_assert_ne!(escaped(&one), escaped(&other));
    }
}
