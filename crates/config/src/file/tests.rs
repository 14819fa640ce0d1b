use std::path::Path;

use serde::Deserialize;

use super::*;
use crate::Span;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    name: String,
    every: Span,
    list: Vec<Entry>,
    port: u16,
    listen: Option<std::net::SocketAddr>,
    bind: Option<std::net::Ipv4Addr>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    address: String,
}

fn file(text: &str) -> Result<File, ConfigError> {
    File::parse(Path::new("x.toml"), text.to_owned())
}

/// What the section `s` of a text is refused with.
fn refusal(text: &str) -> String {
    match file(text).and_then(|file| file.section::<Section>("s")) {
        Ok(section) => panic!("{section:?} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_section_is_typed_and_an_absent_one_has_its_defaults() {
    let file = file("[s]\nname = \"a\"\nevery = \"1h30m\"\n[other]\n").unwrap();
    let section: Section = file.section("s").unwrap();
    assert_eq!(section.name, "a");
    assert_eq!(section.every, Span::seconds(5400));
    assert_eq!(file.section::<Section>("absent").unwrap(), Section::default());
}

#[test]
fn a_refusal_names_file_line_key_and_what_would_be_right() {
    let cases = [
        ("[s]\n\nnmae = \"a\"\n", "x.toml:3: s.nmae: unknown field `nmae`"),
        (
            "[s]\nname = 5\n",
            "x.toml:2: s.name: invalid type: integer `5`; right would be a text in quotes",
        ),
        (
            "[s]\nevery = \"soon\"\n",
            "x.toml:2: s.every: not a length of time; right would be a number and",
        ),
        (
            "[s]\nlist = [\n{ address = \"a\" },\n{ adress = \"b\" }]\n",
            "x.toml:4: s.list[1].adress",
        ),
        ("[s]\nname = \n", "x.toml:2: syntax: "),
        ("s = 4\n", "x.toml:1: s: is an integer; right would be a table"),
        ("s = []\n", "x.toml:1: s: is an array; right would be a table"),
        (
            "[s]\nname = \"a\"\n[s]\n",
            "x.toml:3: s: is given twice; right would be each key and each section once",
        ),
        ("[s]\nname = \"a\"\nname = \"b\"\n", "x.toml:3: name: is given twice"),
        (
            "[s]\nevery = 5\n",
            "x.toml:2: s.every: invalid type: integer `5`; right would be a length of time with its unit, in quotes",
        ),
        (
            "[s]\nlist = 5\n",
            "x.toml:2: s.list: invalid type: integer `5`; right would be a list in brackets",
        ),
        (
            "[s]\nport = 70000\n",
            "x.toml:2: s.port: invalid value: integer `70000`; right would be a whole number from 0 to 65535",
        ),
        (
            "[s]\nlisten = 9925\n",
            "x.toml:2: s.listen: invalid type: integer `9925`; right would be an IP address and a port",
        ),
        (
            "[s]\nbind = \"::1\"\n",
            "x.toml:2: s.bind: not an IPv4 address; right would be an IPv4 address, as in",
        ),
    ];
    for (text, expected) in cases {
        let refusal = refusal(text);
        assert!(refusal.starts_with(expected), "{text:?}: {refusal}");
    }
}

#[test]
fn keys_that_are_somebody_elses_are_left_out() {
    let file = file("[s]\nagent = \"x\"\nname = \"a\"\n").unwrap();
    assert!(file.section::<Section>("s").is_err());
    assert_eq!(file.section_without::<Section>("s", &["agent"]).unwrap().name, "a");
    assert_eq!(file.text_at("s.agent").unwrap().as_deref(), Some("x"));
    assert_eq!(file.text_at("s.absent").unwrap(), None);
}

#[test]
fn what_should_be_a_text_and_is_not_is_refused() {
    let refusal = file("[s]\nagent = 5\n").unwrap().text_at("s.agent").unwrap_err().to_string();
    assert_eq!(refusal, "x.toml:2: s.agent: is an integer; right would be a text in quotes");
}

#[test]
fn a_notice_is_shown_with_its_place() {
    let file = file("a = 1\n[s]\nname = \"a\"\n").unwrap();
    let notice = Notice::new("s.name", "is short");
    assert_eq!(file.note(&notice), "x.toml:3: s.name: is short");
}

#[test]
fn children_come_in_the_order_of_the_file() {
    let file = file("[channel.z]\n[channel.a]\n[channel.m]\n").unwrap();
    assert_eq!(file.children("channel"), ["z", "a", "m"]);
}

#[test]
fn a_problem_is_located_at_its_key_or_the_nearest_section() {
    let file = file("a = 1\n[s]\nlist = [\n{ address = \"q\" },\n]\n").unwrap();
    let line = |key: &str| match file.locate(Problem::new(key, "w", "r")) {
        ConfigError::Wrong { line, .. } => line,
        ConfigError::Unreadable { .. } => 0,
    };
    assert_eq!(line("s.list[0].address"), 4);
    assert_eq!(line("s.list[7].address"), 3);
    assert_eq!(line("s.absent"), 2);
    assert_eq!(line("absent"), 1);
}
