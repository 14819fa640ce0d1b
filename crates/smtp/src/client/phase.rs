//! Where a session stands, and why it ended.

use crate::reply::Class;

/// What is being waited for. Each phase has its own time limit (RFC 5321 section 4.5.3.2), which the driver keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The TCP connection; the driver's own.
    Connect,
    /// The greeting.
    Greeting,
    /// The reply to EHLO, HELO or LHLO.
    Hello,
    /// The reply to RSET.
    Reset,
    /// The reply to MAIL.
    Mail,
    /// The reply to a RCPT.
    Rcpt,
    /// The reply to DATA.
    Data,
    /// Room to write more of the body.
    Body,
    /// The reply to the final dot.
    Dot,
    /// The reply to QUIT.
    Quit,
    /// Nothing: the connection is between two transactions.
    Idle,
}

impl Phase {
    /// What we are doing in this phase, to stand behind "while".
    pub fn doing(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::Greeting => "receiving the greeting",
            Self::Hello => "saying hello",
            Self::Reset => "sending RSET",
            Self::Mail => "sending MAIL FROM",
            Self::Rcpt => "sending RCPT TO",
            Self::Data => "sending DATA",
            Self::Body => "sending the message",
            Self::Dot => "sending the end of the message",
            Self::Quit => "sending QUIT",
            Self::Idle => "waiting between messages",
        }
    }
}

/// What the driver is to do next, after writing all output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read, within the time limit of this phase, which begins anew with each reply ([`Client::replies`]).
    Receive(Phase),
    /// Begin a transaction or quit.
    Idle,
    /// Stream the body, then end it if the dot gate is open.
    Body,
    /// Take the verdicts of the transaction.
    Done,
    /// Close the connection. Verdicts of a transaction, if one was under way, are those known by now.
    Ended,
}

/// Why a session ended early, and in which phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was being waited for.
    pub phase: Phase,
    /// What happened.
    pub cause: Cause,
    /// The same in words, for lane and recipients.
    pub reply: mail::Reply,
}

/// What ended a session early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Greeting, hello or RSET was refused with this class.
    Refused(Class),
    /// `421`: the server closes the connection (RFC 5321 section 3.8).
    ShuttingDown,
    /// The connection was closed or reset.
    Lost,
    /// Nothing came in time.
    TimedOut,
    /// What came is not SMTP, or answers nothing.
    Nonsense,
    /// We dropped the connection.
    Abandoned,
}
