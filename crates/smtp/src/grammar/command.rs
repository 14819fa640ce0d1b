//! Command lines (RFC 5321 section 4.1.1).

use mail::{Address, Recipient};

use super::{HELO_BYTES_MAX, MailParameters, ParameterError, Path, PathError, RcptParameters};

/// A well-formed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'l> {
    /// `EHLO` or `HELO` and the client's name.
    Helo(Helo, &'l str),
    /// `MAIL FROM:`.
    Mail(MailCommand),
    /// `RCPT TO:`.
    Rcpt(Recipient),
    /// `DATA`.
    Data,
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `HELP`.
    Help,
    /// `VRFY`.
    Vrfy,
    /// `EXPN`.
    Expn,
}

/// Which of the two greetings a client used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helo {
    /// `HELO`: no extensions.
    Helo,
    /// `EHLO`.
    Ehlo,
}

/// `MAIL FROM:` with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailCommand {
    /// The reverse-path; nothing is `<>`.
    pub sender: Option<Address>,
    /// Its parameters.
    pub parameters: MailParameters,
}

/// Why a line is not a command that can be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such command.
    #[error("unknown command")]
    Unknown,
    /// A command that RFCs define and this server does not offer.
    #[error("command not implemented")]
    NotImplemented,
    /// The client speaks HTTP: a browser was made to talk to us.
    #[error("HTTP on an SMTP port")]
    Http,
    /// NUL, or bytes that are not UTF-8, outside of addresses.
    #[error("bytes that no command may hold")]
    Bytes,
    /// An address that is not UTF-8.
    #[error("address is not UTF-8")]
    AddressNotUtf8,
    /// The argument is missing or wrong; the text says what would be right.
    #[error("syntax: {0}")]
    Syntax(&'static str),
    /// The name in HELO or EHLO holds what no name may, or is too long.
    #[error("malformed name")]
    HeloName,
    /// The reverse-path is malformed.
    #[error("sender: {0}")]
    Sender(#[source] PathError),
    /// The forward-path is malformed.
    #[error("recipient: {0}")]
    Recipient(#[source] PathError),
    /// An ESMTP parameter is unknown or malformed.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

/// Whether a line is an RCPT command, well-formed or not: what a session may collect before it asks about recipients.
pub fn is_rcpt(line: &[u8]) -> bool {
    verb(line).0.eq_ignore_ascii_case(b"RCPT")
}

/// Takes a command from a line without its line end.
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let (verb, argument) = verb(line);
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    if line.contains(&0) {
        return Err(CommandError::Bytes);
    }
    if is("MAIL") {
        return mail(std::str::from_utf8(argument).map_err(|_| CommandError::AddressNotUtf8)?);
    }
    if is("RCPT") {
        return rcpt(std::str::from_utf8(argument).map_err(|_| CommandError::AddressNotUtf8)?);
    }
    let argument =
        std::str::from_utf8(argument).map_err(|_| CommandError::Bytes)?.trim_matches(' ');
    let bare = |command, syntax| match argument {
        "" => Ok(command),
        _ => Err(CommandError::Syntax(syntax)),
    };
    match () {
        () if is("EHLO") => helo(Helo::Ehlo, argument),
        () if is("HELO") => helo(Helo::Helo, argument),
        () if is("DATA") => bare(Command::Data, "DATA"),
        () if is("RSET") => bare(Command::Rset, "RSET"),
        () if is("QUIT") => bare(Command::Quit, "QUIT"),
        () if is("NOOP") => Ok(Command::Noop),
        () if is("HELP") => Ok(Command::Help),
        () if is("VRFY") && argument.is_empty() => Err(CommandError::Syntax("VRFY address")),
        () if is("VRFY") => Ok(Command::Vrfy),
        () if is("EXPN") => Ok(Command::Expn),
        () => Err(not_ours(verb)),
    }
}

/// The first word of a line, and what follows it.
fn verb(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    line.split_at_checked(end).unwrap_or((line, b""))
}

fn not_ours(verb: &[u8]) -> CommandError {
    const DEFINED: [&str; 10] =
        ["AUTH", "STARTTLS", "BDAT", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML", "BURL"];
    const HTTP: [&str; 5] = ["GET", "POST", "PUT", "CONNECT", "OPTIONS"];
    let among =
        |names: &[&str]| names.iter().any(|name| verb.eq_ignore_ascii_case(name.as_bytes()));
    match () {
        () if among(&DEFINED) => CommandError::NotImplemented,
        () if among(&HTTP) => CommandError::Http,
        () => CommandError::Unknown,
    }
}

/// A name in HELO is whatever prints, in ASCII and without a space: real clients send much that is no host name.
/// Whoever writes it into a header takes care of what is syntax there.
fn helo(helo: Helo, name: &str) -> Result<Command<'_>, CommandError> {
    match name {
        "" if helo == Helo::Ehlo => Err(CommandError::Syntax("EHLO hostname")),
        "" => Err(CommandError::Syntax("HELO hostname")),
        _ if name.len() > HELO_BYTES_MAX => Err(CommandError::HeloName),
        _ if !name.bytes().all(|byte| byte.is_ascii_graphic()) => Err(CommandError::HeloName),
        _ => Ok(Command::Helo(helo, name)),
    }
}

fn mail(argument: &str) -> Result<Command<'_>, CommandError> {
    let text = after_keyword(argument, "FROM:")
        .ok_or(CommandError::Syntax("MAIL FROM:<address> [parameters]"))?;
    let (path, rest) = Path::parse(text).map_err(CommandError::Sender)?;
    let sender = match path {
        Path::Null => None,
        // Nobody could answer a sender without a domain; only recipients may leave it out.
        Path::Mailbox(address) if address.domain().is_empty() => {
            return Err(CommandError::Sender(mail::AddressError::NoDomain.into()));
        }
        Path::Mailbox(address) => Some(address),
    };
    Ok(Command::Mail(MailCommand { sender, parameters: MailParameters::parse(rest)? }))
}

fn rcpt(argument: &str) -> Result<Command<'_>, CommandError> {
    let text = after_keyword(argument, "TO:")
        .ok_or(CommandError::Syntax("RCPT TO:<address> [parameters]"))?;
    let (path, rest) = Path::parse(text).map_err(CommandError::Recipient)?;
    let Path::Mailbox(address) = path else {
        return Err(CommandError::Recipient(PathError::Brackets));
    };
    let RcptParameters { notify, orcpt } = RcptParameters::parse(rest)?;
    Ok(Command::Rcpt(Recipient { notify, orcpt, ..Recipient::from(address) }))
}

fn after_keyword<'t>(argument: &'t str, keyword: &str) -> Option<&'t str> {
    let argument = argument.trim_start_matches(' ');
    let (word, rest) = argument.split_at_checked(keyword.len())?;
    word.eq_ignore_ascii_case(keyword).then_some(rest)
}
