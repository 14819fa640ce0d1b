use super::*;

/// What a log of that format says of one event.
fn line(format: Format, event: impl FnOnce()) -> String {
    let lines = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&lines);
    let sink = Box::new(move |line: &str| kept.lock().unwrap().push_str(line));
    let layer = Lines { sink, format, who: "router/1".to_owned() };
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
    let line = lines.lock().unwrap();
    line.split_once(' ').map_or_else(|| line.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn nothing_from_outside_can_end_a_line_or_forge_a_field() {
    let hostile = "a\r\n2026 router/1 info forged\u{1b}[2J \"q\" x=y";
    let text = line(Format::Text, || tracing::info!(sender = hostile, size = 5, "accepted"));
    assert_eq!(
        text,
        "router/1 info accepted sender=\"a\\r\\n2026 router/1 info forged\\u{1b}[2J 'q' x=y\" size=5\n"
    );
    let json = line(Format::Json, || tracing::info!(sender = hostile, "accepted"));
    assert_eq!(json.matches('\n').count(), 1, "{json}");
}

#[test]
fn json_lines_keep_numbers_as_numbers() {
    let lines =
        line(Format::Json, || tracing::warn!(id = "x", size = 5_u64, ok = true, "accepted"));
    for part in ["\"size\":5", "\"ok\":true", "\"level\":\"warn\"", "\"message\":\"accepted\""] {
        assert!(lines.contains(part), "{lines}");
    }
}

#[test]
fn a_long_value_is_cut() {
    let long = "x".repeat(VALUE_CHARACTERS_MAX * 2);
    let text = line(Format::Text, || tracing::info!(reply = long.as_str(), "deferred"));
    assert!(text.chars().count() < VALUE_CHARACTERS_MAX + 100, "{}", text.len());
    let json = line(Format::Json, || tracing::info!(reply = long.as_str(), debug = ?long, "x"));
    assert!(json.chars().count() < VALUE_CHARACTERS_MAX * 2 + 200, "{}", json.len());
}

#[test]
fn no_event_takes_the_name_of_its_process() {
    let json = line(Format::Json, || tracing::info!(worker = "smtp/3", level = 5, "lost"));
    assert!(
        json.contains("\"worker\":\"router/1\"") && json.contains("\"level\":\"info\""),
        "{json}"
    );
    assert!(json.contains("\"peer\":\"smtp/3\""), "{json}");
    let text = line(Format::Text, || tracing::info!(worker = "smtp/3", "lost"));
    assert_eq!(text, "router/1 info lost peer=smtp/3\n");
}

#[test]
fn lost_lines_are_told_in_the_format_of_the_others() {
    let lost = |format| Lost { format, who: "router/1".to_owned() }.line(7);
    assert!(lost(Format::Text).ends_with(" router/1 warn log lines found no room lines=7\n"));
    let json: serde_json::Value = serde_json::from_str(&lost(Format::Json)).unwrap();
    assert_eq!((json["lines"].as_u64(), json["worker"].as_str()), (Some(7), Some("router/1")));
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    let check = |to: &str| Settings { to: to.to_owned(), ..Settings::default() }.check_here();
    for to in ["stderr", "/dev/stdout", "/tmp/grange.log"] {
        assert_eq!(check(to), Ok(()), "{to}");
    }
    for to in ["/nonexistent/grange.log", "/tmp"] {
        assert_eq!(check(to).map_err(|problem| problem.key), Err("log.to".to_owned()), "{to}");
    }
}
