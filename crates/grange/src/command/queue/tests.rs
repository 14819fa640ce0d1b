use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

const PAGE: &str = include_str!("../../../../../docs/json.md");

/// The names of all fields of a value, however deep.
fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.insert(name.clone());
                fields(value, into);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

/// The answer of a golden frame of the conversation `admin`: what it holds is what `--json` prints.
fn golden(text: &str) -> AdminAnswer {
    let frame: Value = serde_json::from_str(text).unwrap();
    serde_json::from_value(frame["result"].clone()).unwrap()
}

#[test]
fn what_is_printed_as_json_is_in_the_documents() {
    let AdminAnswer::List(page) =
        golden(include_str!("../../../../job/tests/golden/admin.list.answer.json"))
    else {
        panic!("not a list");
    };
    let AdminAnswer::Summary(lanes) =
        golden(include_str!("../../../../job/tests/golden/admin.summary.answer.json"))
    else {
        panic!("not a summary");
    };
    let AdminAnswer::Changed(changed) =
        golden(include_str!("../../../../job/tests/golden/admin.hold.answer.json"))
    else {
        panic!("not a change");
    };
    let AdminAnswer::Status(status) =
        golden(include_str!("../../../../job/tests/golden/admin.status.answer.json"))
    else {
        panic!("not a status");
    };
    let printed = [
        (serde_json::to_value(&page).unwrap(), &["messages", "cursor"][..]),
        (serde_json::to_value(Lanes { lanes }).unwrap(), &["lanes"]),
        (serde_json::to_value(changed).unwrap(), &["messages", "recipients"]),
        (serde_json::to_value(status).unwrap(), &["messages", "oldest"]),
    ];
    for (value, stable) in printed {
        for name in stable {
            assert!(value.get(name).is_some(), "{name} is not in {value}");
        }
        let mut names = BTreeSet::new();
        fields(&value, &mut names);
        // What the sender asked for is RFC 3461's and has no rows of its own.
        for name in
            names.iter().filter(|name| !["failure", "delay", "success"].contains(&name.as_str()))
        {
            assert!(
                PAGE.contains(&format!("`{name}`")) || PAGE.contains(&format!("\"{name}\"")),
                "docs/json.md does not say what {name} is"
            );
        }
    }
}
