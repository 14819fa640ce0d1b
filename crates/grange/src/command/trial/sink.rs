//! The trial's sink: an SMTP server that takes every message but those for one local part, and keeps their texts.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use smtp::server::{BareNewline, Config, Event, Extension, Limits, Pipelining, Reply, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::scratch::contains;
use super::{ELSEWHERE, REFUSED};

/// The most messages kept.
const MESSAGES_MAX: usize = 100;
/// The largest message taken, in bytes.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// A running sink.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    messages: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Sink {
    /// Whether a message with this token has come.
    pub(super) fn has(&self, token: &str) -> bool {
        self.messages.borrow().iter().any(|message| contains(message, token.as_bytes()))
    }
}

/// Starts the sink on a free port.
pub(super) async fn start() -> std::io::Result<Sink> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let messages = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&messages);
    let config = Rc::new(Config {
        hostname: format!("mx.{ELSEWHERE}"),
        banner: "ESMTP the sink of the trial".to_owned(),
        extensions: Extension::ALL.to_vec(),
        limits: Limits {
            message_bytes_max: MESSAGE_BYTES_MAX,
            recipients_max: 1000,
            line_bytes_max: 1 << 20,
            errors_max: 20,
        },
        pipelining: Pipelining::Lenient,
    });
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let session = Session::new(Rc::clone(&config), BareNewline::Reject);
            tokio::task::spawn_local(serve(stream, session, Rc::clone(&kept)));
        }
    });
    Ok(Sink { address, messages })
}

async fn serve(mut stream: TcpStream, mut session: Session, kept: Rc<RefCell<Vec<Vec<u8>>>>) {
    let mut input = Vec::new();
    let mut out = Vec::new();
    let mut message = Vec::new();
    session.greet(false, &mut out);
    loop {
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        match stream.read_buf(&mut input).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let open = answer(&mut session, &mut input, &mut out, &mut message, &kept);
        if !open {
            let _ = stream.write_all(&out).await;
            return;
        }
    }
}

/// Answers all that has come; says whether the session goes on.
fn answer(
    session: &mut Session,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
    message: &mut Vec<u8>,
    kept: &RefCell<Vec<Vec<u8>>>,
) -> bool {
    let mut behind = 0;
    let open = loop {
        let (taken, event) = session.next(input.get(behind..).unwrap_or_default(), out);
        behind += taken;
        match event {
            Event::Input => break true,
            Event::Close(_) => break false,
            Event::Helo => session.hello(Ok(()), out),
            Event::Mail => session.mail(Ok(()), out),
            Event::Recipients => {
                let answers: Vec<_> =
                    session.asked().map(|asked| verdict(&asked.address)).collect();
                session.recipients(answers, out);
            }
            Event::Data => {
                message.clear();
                session.data(Ok(()), out);
            }
            Event::Body(piece) => message.extend_from_slice(piece),
            Event::Message => {
                let mut kept = kept.borrow_mut();
                if kept.len() == MESSAGES_MAX {
                    kept.remove(0);
                }
                kept.push(std::mem::take(message));
                session.message(&Reply::new(250, 0, 0, "thrown away"), out);
            }
            Event::MailRefused(_) => {}
            Event::GaveUp(_) => message.clear(),
        }
    };
    input.drain(..behind);
    open
}

fn verdict(address: &mail::Address) -> Result<(), Reply> {
    match address.local_part() {
        REFUSED => Err(Reply::new(550, 1, 1, "nobody of that name here: the trial wants a bounce")),
        _ => Ok(()),
    }
}
