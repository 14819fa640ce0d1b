//! What MTA and milter agree on: a version, the changes that may come, the events that are told and answered, the macros that go along.

use crate::packet::{Change, Malformed};

/// The version that we speak.
const VERSION: u32 = 6;
/// The oldest that we speak, too.
const VERSION_LEAST: u32 = 2;
/// From this version on there is DATA.
const VERSION_OF_DATA: u32 = 4;
/// From this version on a connection may serve several sessions.
const VERSION_OF_REUSE: u32 = 6;

/// That a piece of the body may be answered with "no more".
const SKIP: u32 = 0x400;
/// That refused recipients are told, too. We do not, which no milter can miss.
const REFUSED_RECIPIENTS: u32 = 0x800;
/// That header values begin behind the colon, with their space.
const LEADING_SPACE: u32 = 0x10_0000;
/// What we offer of the conversation: to leave out any event or any answer.
const OFFERED: u32 = 0x1f_ffff & !REFUSED_RECIPIENTS;
/// Sizes of packets and tests, which are between Sendmail and its own library.
const INTERNAL: u32 = 0xf000_0000;

/// The longest list of macros that a milter may ask for at a stage, in bytes.
const MACROS_BYTES_MAX: usize = 4096;

// What a milter may do to a message; the values are the protocol's.
const ADD_HEADER: u32 = 0x1;
const CHANGE_BODY: u32 = 0x2;
const ADD_RECIPIENT: u32 = 0x4;
const REMOVE_RECIPIENT: u32 = 0x8;
const CHANGE_HEADER: u32 = 0x10;
const QUARANTINE: u32 = 0x20;
const CHANGE_SENDER: u32 = 0x40;
const ADD_RECIPIENT_WITH_PARAMETERS: u32 = 0x80;
const SAY_WHICH_MACROS: u32 = 0x100;
/// All of them.
const ACTIONS: u32 = ADD_HEADER
    | CHANGE_BODY
    | ADD_RECIPIENT
    | REMOVE_RECIPIENT
    | CHANGE_HEADER
    | QUARANTINE
    | CHANGE_SENDER
    | ADD_RECIPIENT_WITH_PARAMETERS
    | SAY_WHICH_MACROS;

/// What a milter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A client connected.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA.
    Data,
    /// A header field.
    Header,
    /// The end of the header section.
    EndOfHeader,
    /// A piece of the body.
    Body,
    /// The end of the message; always told and answered.
    EndOfMessage,
}

impl Event {
    /// The letter of its command.
    pub(crate) fn letter(self) -> u8 {
        match self {
            Self::Connect => b'C',
            Self::Helo => b'H',
            Self::Mail => b'M',
            Self::Recipient => b'R',
            Self::Data => b'T',
            Self::Header => b'L',
            Self::EndOfHeader => b'N',
            Self::Body => b'B',
            Self::EndOfMessage => b'E',
        }
    }

    /// The flag that it is not to be told, and that it is not answered.
    fn flags(self) -> (u32, u32) {
        match self {
            Self::Connect => (0x1, 0x1000),
            Self::Helo => (0x2, 0x2000),
            Self::Mail => (0x4, 0x4000),
            Self::Recipient => (0x8, 0x8000),
            Self::Body => (0x10, 0x8_0000),
            Self::Header => (0x20, 0x80),
            Self::EndOfHeader => (0x40, 0x4_0000),
            Self::Data => (0x200, 0x1_0000),
            Self::EndOfMessage => (0, 0),
        }
    }

    /// The stage of its macros.
    pub(crate) fn stage(self) -> Option<Stage> {
        match self {
            Self::Connect => Some(Stage::Connect),
            Self::Helo => Some(Stage::Helo),
            Self::Mail => Some(Stage::Mail),
            Self::Recipient => Some(Stage::Recipient),
            Self::Data => Some(Stage::Data),
            Self::EndOfHeader => Some(Stage::EndOfHeader),
            Self::EndOfMessage => Some(Stage::EndOfMessage),
            Self::Header | Self::Body => None,
        }
    }
}

/// When macros are sent; the values are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// With the connection.
    Connect = 0,
    /// With HELO.
    Helo = 1,
    /// With MAIL.
    Mail = 2,
    /// With RCPT.
    Recipient = 3,
    /// With DATA.
    Data = 4,
    /// With the end of the message.
    EndOfMessage = 5,
    /// With the end of the header section.
    EndOfHeader = 6,
}

const STAGES: usize = 7;

impl Stage {
    /// What is sent to a milter that does not say what it wants: Postfix's list, and the client, whom many ask for.
    fn usual(self) -> &'static [&'static str] {
        match self {
            Self::Connect => &[
                "j",
                "_",
                "{daemon_name}",
                "{daemon_addr}",
                "v",
                "{client_addr}",
                "{client_name}",
                "{client_port}",
                "{client_ptr}",
            ],
            Self::Helo => {
                &["{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}"]
            }
            Self::Mail => &[
                "i",
                "{auth_type}",
                "{auth_authen}",
                "{auth_author}",
                "{mail_addr}",
                "{mail_host}",
                "{mail_mailer}",
            ],
            Self::Recipient => &["i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"],
            Self::Data | Self::EndOfHeader | Self::EndOfMessage => &["i"],
        }
    }
}

/// What a milter answers to the negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    version: u32,
    actions: u32,
    protocol: u32,
    macros: [Option<Vec<String>>; STAGES],
}

impl Offer {
    /// Reads the data behind `O`; nothing if they are none.
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let (version, data) = number(data)?;
        let (actions, data) = number(data)?;
        let (protocol, mut data) = number(data)?;
        let mut macros = [const { None }; STAGES];
        while !data.is_empty() {
            let (stage, rest) = number(data)?;
            let end =
                rest.iter().position(|byte| *byte == 0).filter(|end| *end <= MACROS_BYTES_MAX)?;
            let (names, rest) = rest.split_at_checked(end)?;
            *macros.get_mut(usize::try_from(stage).ok()?)? = Some(names_of(names));
            data = rest.get(1..)?;
        }
        Some(Self { version, actions, protocol, macros })
    }
}

fn number(data: &[u8]) -> Option<(u32, &[u8])> {
    data.split_first_chunk().map(|(number, rest)| (u32::from_be_bytes(*number), rest))
}

/// Names of macros, with spaces or commas between them; of more than one letter they get their braces.
fn names_of(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let names = text.split([' ', ',']).filter(|name| !name.is_empty());
    names
        .map(|name| match name.starts_with('{') || name.chars().count() == 1 {
            true => name.to_owned(),
            false => format!("{{{name}}}"),
        })
        .collect()
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    version: u32,
    actions: u32,
    protocol: u32,
    macros: [Option<Vec<String>>; STAGES],
}

impl Options {
    /// Our packet of the negotiation, with its length.
    pub(crate) fn ours() -> Vec<u8> {
        let mut packet = 13_u32.to_be_bytes().to_vec();
        packet.push(b'O');
        for number in [VERSION, ACTIONS, OFFERED] {
            packet.extend_from_slice(&number.to_be_bytes());
        }
        packet
    }

    /// Agrees to what a milter wants.
    pub(crate) fn agree(offer: Offer) -> Result<Self, Malformed> {
        let Offer { version, actions, protocol, macros } = offer;
        if !(VERSION_LEAST..=VERSION).contains(&version) {
            return Err(Malformed::Version(version));
        }
        let protocol = protocol & !(INTERNAL | REFUSED_RECIPIENTS);
        match protocol & !OFFERED {
            0 => Ok(Self { version, actions, protocol, macros }),
            // An event that it thinks it will not be told, an answer that it thinks nobody waits for.
            unknown => Err(Malformed::Wishes(unknown)),
        }
    }

    /// Whether the milter is told of an event.
    pub fn tells(&self, event: Event) -> bool {
        let is_known = event != Event::Data || self.version >= VERSION_OF_DATA;
        is_known && self.protocol & event.flags().0 == 0
    }

    /// Whether the milter answers to an event.
    pub fn answers(&self, event: Event) -> bool {
        self.protocol & event.flags().1 == 0
    }

    /// Whether it may say that it needs no more of the body.
    pub fn may_skip(&self) -> bool {
        self.protocol & SKIP != 0
    }

    /// Whether header values are told with the space behind the colon.
    pub fn has_leading_space(&self) -> bool {
        self.protocol & LEADING_SPACE != 0
    }

    /// Whether the connection may serve another session.
    pub fn may_be_reused(&self) -> bool {
        self.version >= VERSION_OF_REUSE
    }

    /// The macros of a stage, those of more than one letter in braces.
    pub fn macros(&self, stage: Stage) -> impl Iterator<Item = &str> {
        let own = self.macros.get(stage as usize).and_then(Option::as_ref);
        let usual = own.is_none().then(|| stage.usual().iter().copied());
        own.into_iter().flatten().map(String::as_str).chain(usual.into_iter().flatten())
    }

    /// Whether another body was agreed on.
    pub(crate) fn allow_body(&self) -> bool {
        self.actions & CHANGE_BODY != 0
    }

    /// Whether a change was agreed on.
    pub(crate) fn allow(&self, change: &Change) -> bool {
        let needed = match change {
            Change::AddHeader { .. } | Change::InsertHeader { .. } => ADD_HEADER,
            Change::ChangeHeader { .. } => CHANGE_HEADER,
            Change::Sender { .. } => CHANGE_SENDER,
            Change::AddRecipient { .. } => ADD_RECIPIENT | ADD_RECIPIENT_WITH_PARAMETERS,
            Change::RemoveRecipient(_) => REMOVE_RECIPIENT,
            Change::Quarantine(_) => QUARANTINE,
        };
        self.actions & needed != 0
    }
}
