//! What is remembered, and for how long.

use super::*;
use crate::chain::Chain;

fn looks() -> Looks {
    Chain::of(Vec::new()).open()
}

#[test]
fn sessions_are_forgotten_when_they_are_many_or_silent() {
    let sessions = Sessions::default();
    sessions.keep("nothing to keep", None, None);
    assert!(sessions.known.borrow().is_empty());
    for number in 0..SESSIONS_MAX + 10 {
        sessions.keep(&number.to_string(), Some(looks()), None);
    }
    assert_eq!(sessions.known.borrow().len(), SESSIONS_MAX);
    assert!(sessions.take("0").is_none(), "the one that was silent longest");
    let last = (SESSIONS_MAX + 9).to_string();
    assert!(sessions.take(&last).is_some());
    assert!(sessions.take(&last).is_none(), "it is in somebody's hand");
    let now = Instant::now();
    sessions.sweep(now + SILENT_MAX / 2);
    assert_eq!(sessions.known.borrow().len(), SESSIONS_MAX - 1);
    sessions.sweep(now + SILENT_MAX + Duration::from_secs(1));
    assert!(sessions.known.borrow().is_empty());
}
