//! `clamd`: scans for viruses with ClamAV's daemon (INSTREAM).
//!
//! ```text
//! connect ─▶ zINSTREAM\0 ─▶ length, bytes … ─▶ 0 ─▶ "stream: OK" | "stream: NAME FOUND" | "… ERROR"
//! ```
//!
//! A connection for each message: clamd reads nothing more after an INSTREAM outside of a session, and a session would bind one of its
//! threads. The whole message is sent as the filters before left it. Whatever is not one of the three answers is a failure.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use config::Problem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::endpoint::{Endpoint, Stream};
use crate::filter::{Filter, FilterError, Finding, OfMessage, Session};
use crate::kinds::Setup;
use crate::message::Message;
use crate::rules::act;
use crate::settings::{Action, FilterSetting};

/// In what pieces a message is sent, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// The longest name of a virus that is told, in bytes.
const NAME_BYTES_MAX: usize = 100;

/// Checks an entry; `key` is where it stands.
pub(crate) fn check(setting: &FilterSetting, key: &str) -> Result<(), Problem> {
    match setting.action {
        Some(Action::Accept) => {
            let right = "quarantine, reject, tempfail, discard or { add_header = { name, value } }";
            Err(Problem::new(format!("{key}.action"), "takes messages with viruses", right))
        }
        _ => Ok(()),
    }
}

/// Makes it ready.
pub(crate) fn make(setting: &FilterSetting, setup: &Setup) -> Result<Rc<dyn Filter>, String> {
    let endpoint = setting.clamd.clone().ok_or("there is no clamd")?;
    Ok(Rc::new(Clamd { endpoint, name: setup.name.clone(), setting: setting.clone() }))
}

struct Clamd {
    endpoint: Endpoint,
    name: String,
    setting: FilterSetting,
}

impl OfMessage for Clamd {
    async fn find(&self, _: &Session, message: &Message) -> Result<Finding, FilterError> {
        let stream = self.endpoint.connect(self.setting.timeouts.connect.0).await?;
        Ok(self.of(scan(stream, message).await?))
    }
}

impl Clamd {
    /// What a virus comes to.
    fn of(&self, virus: Option<String>) -> Finding {
        let Some(virus) = virus else { return Finding::default() };
        let text = match &self.setting.text {
            Some(text) => format!("{text} ({virus})"),
            None => format!("virus found: {virus}"),
        };
        let setting = FilterSetting { text: Some(text), ..self.setting.clone() };
        act(&setting, &self.name, false)
    }
}

/// Sends a message, and gives the answer. What is wrong with a message may be told before all of it is sent, but not that it is well.
async fn scan(stream: Box<dyn Stream>, message: &Message) -> Result<Option<String>, FilterError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut sending = pin!(send(&mut writer, message));
    let mut reading = pin!(read(&mut reader));
    let mut sent = None;
    let answer = poll_fn(|context| {
        if sent.is_none()
            && let Poll::Ready(result) = sending.as_mut().poll(context)
        {
            sent = Some(result);
        }
        reading.as_mut().poll(context)
    });
    let answer = answer.await?;
    let is_all_sent = matches!(sent, Some(Ok(())));
    match (answer.is_empty(), sent) {
        (true, Some(Err(error))) => Err(FilterError::Lost(error.to_string())),
        (true, _) => Err(FilterError::Lost("no answer".to_owned())),
        (false, _) => match parse(&answer)? {
            None if !is_all_sent => {
                Err(FilterError::Malformed("an answer before the end of the message".to_owned()))
            }
            found => Ok(found),
        },
    }
}

/// Reads an answer up to its end, or to that of the connection.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, FilterError> {
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    while !answer.ends_with(&[0]) {
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) => return Err(FilterError::Lost(error.to_string())),
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(FilterError::Malformed("an endless answer".to_owned()));
        }
    }
    Ok(answer)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &Message) -> std::io::Result<()> {
    stream.write_all(b"zINSTREAM\0").await?;
    for part in [message.head(), message.body()] {
        for piece in part.chunks(PIECE_BYTES) {
            stream.write_all(&(piece.len() as u32).to_be_bytes()).await?;
            stream.write_all(piece).await?;
        }
    }
    stream.write_all(&[0; 4]).await?;
    stream.flush().await
}

/// Reads an answer: the name of a virus, or that there is none.
fn parse(answer: &[u8]) -> Result<Option<String>, FilterError> {
    let malformed = || {
        let shown = String::from_utf8_lossy(answer.get(..NAME_BYTES_MAX).unwrap_or(answer));
        FilterError::Malformed(shown.escape_debug().to_string())
    };
    let text = answer.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
    let text = text.ok_or_else(malformed)?;
    if let Some(wrong) = text.strip_suffix(" ERROR") {
        return Err(match wrong.contains("size limit exceeded") {
            true => FilterError::Message("larger than clamd takes (StreamMaxLength)".to_owned()),
            false => FilterError::Failed(plain(wrong)),
        });
    }
    match text.strip_prefix("stream: ").ok_or_else(malformed)? {
        "OK" => Ok(None),
        found => match found.strip_suffix(" FOUND") {
            Some(name) if !name.is_empty() => Ok(Some(plain(name))),
            _ => Err(malformed()),
        },
    }
}

/// A text of clamd's as it may stand in a reply or a reason.
fn plain(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    let shown = text.chars().map(|c| if is_plain(c) { c } else { '?' });
    shown.take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (answer, expected) in [
            ("stream: OK\0", Ok(None)),
            ("stream: Eicar-Test-Signature FOUND\0", Ok(Some("Eicar-Test-Signature".to_owned()))),
            ("stream: Wei\nrd FOUND\0", Ok(Some("Wei?rd".to_owned()))),
            (
                "INSTREAM size limit exceeded. ERROR\0",
                Err(FilterError::Message("larger than clamd takes (StreamMaxLength)".to_owned())),
            ),
            (
                "stream: Can't allocate memory ERROR\0",
                Err(FilterError::Failed("stream: Can't allocate memory".to_owned())),
            ),
        ] {
            assert_eq!(parse(answer.as_bytes()), expected, "{answer:?}");
        }
        for answer in [
            "",
            "\0",
            "stream: OK",
            "stream: \0",
            "stream: FOUND\0",
            "stream:  FOUND\0",
            "OK\0",
            "stream: ok\0",
            "stream: OK \0",
            "UNKNOWN COMMAND\0",
            "stream: OK\0stream: X FOUND",
        ] {
            let error = parse(answer.as_bytes());
            assert!(matches!(error, Err(FilterError::Malformed(_))), "{answer:?}: {error:?}");
        }
        assert!(matches!(parse(b"stream: \xff FOUND\0"), Err(FilterError::Malformed(_))));
    }
}
