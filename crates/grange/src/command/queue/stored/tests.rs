use super::*;

#[test]
fn a_cursor_goes_on_among_accepted_messages_or_is_the_schedulers() {
    let id = MessageId::new(mail::Timestamp::from_millis(1_700_000_000_000), 7);
    for after in [After::NOTHING, After(Some(id))] {
        assert_eq!(accepted_after(Some(&after.cursor())).unwrap(), Some(after));
    }
    assert_eq!(accepted_after(None).unwrap(), None);
    assert_eq!(accepted_after(Some(&id.to_string())).unwrap(), None);
    assert!(matches!(accepted_after(Some("accepted:x y")), Err(Failure::Usage(_))));
}

#[test]
fn pages_of_the_store_hold_every_message_once_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("hostname = \"mta.example.test\"\ndata_dir = {:?}\n", folder.path());
    let file = config::File::parse(std::path::Path::new("x.toml"), text).unwrap();
    let configuration = Configuration::from_file(&file).unwrap();
    crate::command::block_on(async {
        let (intake, _) =
            queue_spool::open_intake(folder.path(), &configuration.queue.spool).expect("an intake");
        let mut ids = Vec::new();
        for number in 0..7 {
            let sender = if number == 3 { "berta@example.test" } else { "anna@example.test" };
            let accept = queue::conformance::accept(sender, 1);
            ids.push(queue::conformance::deliver(&*intake, b"x\r\n", accept).await.0);
        }
        ids.sort();
        for (limit, pages) in [(7, 1), (100, 1), (3, 3), (1, 7)] {
            let (listed, count) = walk(&configuration, &Selection::default(), limit).await;
            assert_eq!((listed, count), (ids.clone(), pages), "pages of {limit}");
        }
        let select =
            Selection { sender: Some("berta@example.test".to_owned()), ..Selection::default() };
        let (listed, count) = walk(&configuration, &select, 1).await;
        assert_eq!((listed.len(), count), (1, 1), "nothing selected is behind the only one");
        let found = find(&configuration, listed[0], false).await.unwrap();
        assert_eq!(found.map(|message| message.id), listed.first().copied());
    })
    .unwrap();
}

/// The ids of all pages, and how many pages there are.
async fn walk(
    configuration: &Configuration,
    select: &Selection,
    limit: usize,
) -> (Vec<MessageId>, usize) {
    let (mut listed, mut pages, mut cursor) = (Vec::new(), 0, None);
    loop {
        let page = whole_store(configuration, select, limit, cursor.as_deref()).await.unwrap();
        assert!(page.messages.len() <= limit);
        listed.extend(page.messages.iter().map(|message| message.id));
        (pages, cursor) = (pages + 1, page.cursor);
        if cursor.is_none() {
            return (listed, pages);
        }
    }
}

fn message(number: u64, state: &str) -> QueuedMessage {
    QueuedMessage {
        id: MessageId::new(mail::Timestamp::from_millis(1000 + number), 0),
        state: state.to_owned(),
        sender: None,
        size: 1,
        accepted_at: mail::Timestamp::from_millis(1000 + number),
        handle: queue::Handle::parse("test:1").unwrap(),
        hold: None,
        recipients_total: 0,
        recipients: Vec::new(),
    }
}

#[test]
fn what_was_routed_between_two_questions_is_listed_once() {
    let routed =
        || Page { messages: vec![message(2, "routed"), message(3, "routed")], cursor: None };
    let accepted = |more: Option<&str>| Page {
        messages: vec![message(1, "accepted"), message(2, "accepted"), message(4, "accepted")],
        cursor: more.map(str::to_owned),
    };
    let states = |page: &Page| -> Vec<String> {
        page.messages.iter().map(|message| message.state.clone()).collect()
    };
    let page = joined(routed(), accepted(None), 10);
    assert_eq!(states(&page), ["accepted", "routed", "routed", "accepted"]);
    assert_eq!(page.cursor, None);
    let page = joined(routed(), accepted(Some("accepted:x")), 10);
    assert_eq!(page.cursor.as_deref(), Some("accepted:x"));
    // No room for the last.
    let page = joined(routed(), accepted(None), 3);
    assert_eq!(states(&page), ["accepted", "routed", "routed"]);
    let last = After(Some(message(1, "").id));
    assert_eq!(page.cursor, Some(last.cursor()));
    // The scheduler alone has more than a page.
    let full = Page { cursor: Some("7".to_owned()), ..routed() };
    assert_eq!(joined(full, accepted(None), 2).cursor.as_deref(), Some("7"));
}
