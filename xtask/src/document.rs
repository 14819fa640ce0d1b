//! `cargo xtask document`: writes `docs/configuration.md` from the doc comments of the settings. `tidy` checks that it is current.

use std::fs;

use crate::{Failure, root};

/// The reference that is written.
pub(crate) const REFERENCE: &str = "docs/configuration.md";

/// A table of the reference: its heading, what is said below it, and the struct whose fields it lists.
struct Section {
    heading: &'static str,
    about: &'static str,
    file: &'static str,
    name: &'static str,
}

const INTRODUCTION: &str = "\
# Configuration

One TOML file, `/etc/grange/grange.toml` unless `--config FILE` or `GRANGE_CONFIG` says otherwise. `grange check` answers what is
wrong with file, line and key, and what would be right; `grange check --print` shows every setting in force. Unknown keys are errors.

Lengths of time are text: `\"90s\"`, `\"5m\"`, `\"1h30m\"`, `\"5d\"`. Sizes are numbers of bytes, or text: `\"64KiB\"`, `\"50MiB\"`.
This page is written by `cargo xtask document` from the source; every setting has a default unless it says that it must be given.
";

const TABLES: &str = "\
`aliases` and the `users` of a route are tables: `\"file:/PATH\"`, a list of names, or a map such as `{ info = \"anna, berta\" }`. A file is read again when it changes.

```
# aliases: a comment
postmaster: anna                      a name, a colon, values
sales:  berta, carl,
        sales@example.org             a line that begins with white space goes on with the one before
info@example.test anna@example.test   without a colon: one address for another
@example.org: anna                    everyone else of a domain

# users: a key on each line, a local part or a whole address
anna
berta@example.test
```";

const SECTIONS: &[Section] = &[
    section("Top level", "", "crates/grange/src/configuration.rs", "Top"),
    section(
        "`workers = { … }`",
        "Apache's settings, in every section of a farm. Each stage has defaults of its own where it says so.",
        "crates/farm/src/workers.rs",
        "Workers",
    ),
    section("`[smtpserver]`", "", "crates/smtpserver/src/settings.rs", "Settings"),
    section("`[smtpserver]` `listen = [{ … }]`", "", "crates/smtpserver/src/settings.rs", "Listen"),
    section("`[contentfilter]`", "", "crates/contentfilter/src/settings.rs", "Settings"),
    section(
        "`[contentfilter]` `filters = [{ … }]`",
        "Filters are asked in this order, each about the message as those before left it; the first that refuses or discards it ends that. \
         What a filter is follows from the key that it has: `milter`, `rspamd`, `clamd`, `authentication`, `dkim_sign` or `arc_seal`. All others are rules: \
         a rule acts on a message on which all holds that it says of `header`, `matches`, `body`, `attachment`, `attachment_type`, `recipient` and `size_over`. \
         Regular expressions do not care about case; `(?-i)` makes one that does.",
        "crates/contentfilter/src/settings.rs",
        "FilterSetting",
    ),
    section(
        "`[contentfilter]` `filters = [{ timeouts = { … } }]`",
        "",
        "crates/contentfilter/src/settings.rs",
        "Timeouts",
    ),
    section(
        "`[contentfilter]` `filters = [{ authentication = { … } }]`",
        "See [filters.md](filters.md).",
        "crates/contentfilter/src/authentication/settings.rs",
        "AuthenticationSetting",
    ),
    section(
        "`[contentfilter]` `filters = [{ dkim_sign = [{ … }] }]`",
        "Of the keys whose `clients` include the message's, those sign that are most closely meant for its author: of the author's very domain, else of the \
         longest domain above it, else of `\"*\"`. See [filters.md](filters.md).",
        "crates/contentfilter/src/signing/settings.rs",
        "SigningKey",
    ),
    section(
        "`[contentfilter]` `filters = [{ arc_seal = { … } }]`",
        "See [filters.md](filters.md).",
        "crates/contentfilter/src/signing/settings.rs",
        "SealingKey",
    ),
    section("`[router]`", TABLES, "crates/router/src/settings.rs", "Settings"),
    section(
        "`[router]` `routes = [{ … }]`",
        "A route has either `domain` or `address`, and either `channel` or `reject`.",
        "crates/router/src/settings.rs",
        "RouteSetting",
    ),
    section("`[scheduler]`", "", "crates/scheduler/src/settings.rs", "Settings"),
    section("`[requeue]`", "", "crates/requeue/src/lib.rs", "Settings"),
    section("`[compact]`", "", "crates/compact/src/lib.rs", "Settings"),
    section(
        "`[channel.NAME]` with `agent = \"smtp\"`",
        "",
        "crates/agent-smtp/src/settings.rs",
        "Settings",
    ),
    section(
        "`[channel.NAME]` `timeouts = { … }` with `agent = \"smtp\"`",
        "",
        "crates/agent-smtp/src/settings.rs",
        "Timeouts",
    ),
    section(
        "`[channel.NAME]` with `agent = \"local\"`",
        "",
        "crates/agent-local/src/settings.rs",
        "Settings",
    ),
    section(
        "`[channel.NAME]` with `agent = \"error\"`",
        "",
        "crates/agent-error/src/settings.rs",
        "Settings",
    ),
    section(
        "`[channel.NAME]` with `socket = …`",
        "A program of your own: see [job-sockets.md](job-sockets.md).",
        "crates/grange/src/configuration.rs",
        "External",
    ),
    section("`[queue]`", "", "crates/grange/src/stores/settings.rs", "Place"),
    section(
        "`[queue]` with `store = \"spool\"`",
        "",
        "crates/queue-spool/src/settings.rs",
        "Settings",
    ),
    section(
        "`[queue.postgres]` with `store = \"postgres://…\"`",
        "",
        "crates/queue-postgres/src/settings.rs",
        "Settings",
    ),
    section(
        "`[cluster]`",
        "For farms on several hosts: see [several-hosts.md](several-hosts.md).",
        "crates/grange/src/cluster.rs",
        "Settings",
    ),
    section("`[cluster]` `hosts = [{ … }]`", "", "crates/grange/src/cluster.rs", "Host"),
    section("`[dns]`", "", "crates/dns/src/settings.rs", "Settings"),
    section("`[log]`", "", "crates/grange/src/logging.rs", "Settings"),
    section("`[metrics]`", "", "crates/grange/src/metrics.rs", "Settings"),
];

const fn section(
    heading: &'static str,
    about: &'static str,
    file: &'static str,
    name: &'static str,
) -> Section {
    Section { heading, about, file, name }
}

/// Writes the reference.
pub(crate) fn run() -> Result<bool, Failure> {
    fs::write(root().join(REFERENCE), reference()?)?;
    println!("wrote {REFERENCE}");
    Ok(true)
}

/// The reference as the source has it now.
pub(crate) fn reference() -> Result<String, Failure> {
    let mut text = INTRODUCTION.to_owned();
    for section in SECTIONS {
        let source = fs::read_to_string(root().join(section.file))?;
        let fields = fields(&source, section.name)
            .ok_or_else(|| format!("{} has no struct {}", section.file, section.name))?;
        text.push_str(&format!("\n## {}\n\n", section.heading));
        if !section.about.is_empty() {
            text.push_str(&format!("{}\n\n", section.about));
        }
        text.push_str("| key | meaning |\n|---|---|\n");
        for (name, meaning) in fields {
            text.push_str(&format!("| `{name}` | {} |\n", meaning.replace('|', "\\|")));
        }
    }
    Ok(text)
}

/// The public fields of a struct with their doc comments, one line each.
fn fields(source: &str, name: &str) -> Option<Vec<(String, String)>> {
    let (_, rest) = source.split_once(&format!("pub struct {name} {{\n"))?;
    let (body, _) = rest.split_once("\n}")?;
    let mut fields = Vec::new();
    let mut words = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            words.push(comment.trim().to_owned());
        } else if let Some((field, _)) =
            line.strip_prefix("pub ").and_then(|field| field.split_once(':'))
        {
            fields.push((field.to_owned(), without_references(&words.join(" "))));
            words.clear();
        }
    }
    Some(fields)
}

/// Turns the source's references to items, as in [`Item`], into plain code.
fn without_references(text: &str) -> String {
    text.replace("[`", "`").replace("`]", "`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_their_comments() {
        let source = "/// X.\npub struct Settings {\n    /// How\n    /// long, see [`Y`].\n    #[serde(default)]\n    pub long: Span,\n}\n";
        let found = fields(source, "Settings").unwrap();
        assert_eq!(found, [("long".to_owned(), "How long, see `Y`.".to_owned())]);
        assert!(fields(source, "Other").is_none());
    }
}
