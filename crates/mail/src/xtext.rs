//! xtext, in which ENVID and ORCPT travel (RFC 3461 section 4), and the form of it that carries UTF-8 (RFC 6533 section 3).

/// The text is not xtext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("xtext is printable ASCII without = and space, with + only before two hexadecimal digits")]
pub struct XtextError;

/// Writes bytes as xtext: what is not printable ASCII, `+` and `=` become `+` and two hexadecimal digits.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'+' | b'=' => out.push_str(&format!("+{byte:02X}")),
            b'!'..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("+{byte:02X}")),
        }
    }
    out
}

/// Reads xtext. Lower case hexadecimal digits are taken too, as some clients write them.
pub fn decode(text: &str) -> Result<Vec<u8>, XtextError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let high = bytes.next().and_then(hexadecimal).ok_or(XtextError)?;
                let low = bytes.next().and_then(hexadecimal).ok_or(XtextError)?;
                out.push(high << 4 | low);
            }
            b'=' => return Err(XtextError),
            b'!'..=b'~' => out.push(byte),
            _ => return Err(XtextError),
        }
    }
    Ok(out)
}

/// Writes text in ASCII with `\x{…}` for each other character: `utf-8-addr-xtext` of RFC 6533, and what a report says of
/// a remote's words. Control characters, `\`, and with `strict` also `+`, `=` and space, are written so as well.
pub fn escape(text: &str, strict: Strict) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let plain = match character {
            '\\' => false,
            '+' | '=' | ' ' => strict == Strict::No,
            '!'..='~' => true,
            _ => false,
        };
        if plain {
            out.push(character);
        } else {
            out.push_str(&format!("\\x{{{:02X}}}", u32::from(character)));
        }
    }
    out
}

/// Whether [`escape`] writes an SMTP parameter, which may hold neither space nor `+` and `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strict {
    /// It may stand in a parameter of MAIL or RCPT.
    Yes,
    /// It stands in a header line.
    No,
}

fn hexadecimal(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests;
