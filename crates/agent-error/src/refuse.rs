//! Refusing what an operator routes to this channel, in the words of the lane's host: `5.1.1 no longer here`.

use mail::{Outcome, Reply, StatusCode, header};

/// The longest text that is taken from a host, in bytes.
const TEXT_BYTES_MAX: usize = 400;
/// What is said when the host says nothing.
const TEXT_DEFAULT: &str = "mail to this address is refused here";
/// The status when the host has none: other address status.
const STATUS_DEFAULT: StatusCode = StatusCode::new(5, 1, 0);

/// What every recipient of a lane is told. A status of class 4 defers, which an operator may want for a while.
pub(crate) fn refusal(host: &str) -> Outcome {
    let (first, rest) = host.trim().split_once(' ').unwrap_or((host.trim(), ""));
    let (status, text) = match first.parse::<StatusCode>() {
        Ok(status) if status.class != 2 => (status, rest),
        _ => (STATUS_DEFAULT, host),
    };
    let safe = header::sanitise(text);
    let text = match safe.trim() {
        "" => TEXT_DEFAULT,
        text if text.len() > TEXT_BYTES_MAX => TEXT_DEFAULT,
        text => text,
    };
    let reply = Reply::ours(status, text);
    if status.class == 4 { Outcome::Deferred(reply) } else { Outcome::Failed(reply) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_become_words() {
        let long = format!("5.1.1 {}", "x".repeat(500));
        for (host, status, text) in [
            ("5.1.1 no longer here", "5.1.1", "no longer here"),
            ("  5.7.1   not you ", "5.7.1", "not you"),
            ("5.1.1", "5.1.1", TEXT_DEFAULT),
            ("", "5.1.0", TEXT_DEFAULT),
            ("no longer here", "5.1.0", "no longer here"),
            ("2.0.0 fine", "5.1.0", "2.0.0 fine"),
            ("5.1.1 a\r\nb\0", "5.1.1", "a  b?"),
            (&long, "5.1.1", TEXT_DEFAULT),
        ] {
            let Outcome::Failed(reply) = refusal(host) else { panic!("{host:?} does not fail") };
            assert_eq!((reply.status.to_string().as_str(), reply.text.as_str()), (status, text));
        }
        assert!(matches!(refusal("4.2.1 back on Monday"), Outcome::Deferred(_)));
    }
}
