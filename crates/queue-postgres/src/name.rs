//! The handles of this store: `pg:m.ID` names a message, `pg:b.ID.SIZE` the body of a finished draft.

use mail::MessageId;
use queue::Handle;

/// The store's name in handles.
pub const STORE: &str = "pg";

/// What a handle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A row of `message`.
    Message(MessageId),
    /// Rows of `body` under this id, which are so many bytes together.
    Body(MessageId, u64),
}

impl Name {
    /// Looks behind a handle's colon; nothing when the handle is another store's, or malformed.
    pub fn parse(handle: &Handle) -> Option<Self> {
        let (STORE, name) = handle.parts() else { return None };
        let (kind, rest) = name.split_once('.')?;
        match kind {
            "m" => rest.parse().ok().map(Self::Message),
            "b" => {
                let (id, size) = rest.split_once('.')?;
                let is_plain = size == "0" || !size.starts_with(['0', '+']);
                let size = size.parse().ok().filter(|_| is_plain)?;
                Some(Self::Body(id.parse().ok()?, size))
            }
            _ => None,
        }
    }

    /// The handle that names this.
    pub fn handle(self) -> Handle {
        let text = match self {
            Self::Message(id) => format!("{STORE}:m.{id}"),
            Self::Body(id, size) => format!("{STORE}:b.{id}.{size}"),
        };
        Handle::parse(&text).expect("ids and numbers make a well-formed handle")
    }
}

#[cfg(test)]
mod tests {
    use mail::Timestamp;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_comes_back(at in any::<u64>(), chance in any::<u64>(), size in any::<u64>()) {
            let id = MessageId::new(Timestamp::from_millis(at), chance);
            for name in [Name::Message(id), Name::Body(id, size)] {
                prop_assert_eq!(Name::parse(&name.handle()), Some(name));
            }
        }

        #[test]
        fn what_is_taken_is_written_the_same(rest in "[mb]\\.[0-9a-z.+-]{0,40}") {
            let handle = Handle::parse(&format!("pg:{rest}")).expect("it is printable");
            if let Some(name) = Name::parse(&handle) {
                prop_assert_eq!(name.handle(), handle);
            }
        }

        #[test]
        fn no_handle_is_too_much(text in "[ -~]{1,60}:[ -~]{1,100}") {
            if let Ok(handle) = Handle::parse(&text) {
                Name::parse(&handle);
            }
        }
    }
}
