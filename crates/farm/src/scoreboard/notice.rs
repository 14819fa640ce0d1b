//! A worker's notice as it stands in the file: a short text that its readers can tell from one that is just being written.
//!
//! ```text
//! word 0   length of the text (low half), its check sum (high half); 0: there is none
//! then     the text, UTF-8
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a notice takes in the file, in bytes.
pub(super) const NOTICE_BYTES: usize = 512;
const WORD: usize = 8;
/// The longest text of one, in bytes.
const TEXT_BYTES_MAX: usize = NOTICE_BYTES - WORD;
/// What stands behind a text that was too long.
const CUT: char = '…';

/// Writes a notice into its place, of which `word` gives the words by their numbers. A text that is too long is cut.
pub(super) fn write<'a>(text: &str, word: impl Fn(usize) -> &'a AtomicU64) {
    let text = cut(text);
    let head = match text.is_empty() {
        true => 0,
        false => text.len() as u64 | u64::from(check_sum(text.as_bytes())) << 32,
    };
    word(0).store(0, Relaxed);
    for (number, part) in text.as_bytes().chunks(WORD).enumerate() {
        let mut bytes = [0; WORD];
        bytes.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        word(number + 1).store(u64::from_ne_bytes(bytes), Relaxed);
    }
    word(0).store(head, Relaxed);
}

/// Reads a notice from the bytes of its place: a text, or nothing when there is none; an error when it is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<String>, NotWhole> {
    let (head, text) = bytes.split_first_chunk::<WORD>().ok_or(NotWhole)?;
    let head = u64::from_ne_bytes(*head);
    if head == 0 {
        return Ok(None);
    }
    let length = usize::try_from(head & u64::from(u32::MAX)).map_err(|_| NotWhole)?;
    let text = text.get(..length).ok_or(NotWhole)?;
    if u64::from(check_sum(text)) != head >> 32 {
        return Err(NotWhole);
    }
    String::from_utf8(text.to_vec()).map(Some).map_err(|_| NotWhole)
}

/// A notice was read while it was written, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotWhole;

fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX - CUT.len_utf8());
    let mut cut = text.get(..end).unwrap_or_default().to_owned();
    cut.push(CUT);
    cut
}

/// FNV-1a: it only has to tell whole texts from torn ones.
fn check_sum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<u8> {
        let words: Vec<AtomicU64> = (0..NOTICE_BYTES / WORD).map(|_| AtomicU64::new(7)).collect();
        write(text, |number| &words[number]);
        words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect()
    }

    #[test]
    fn is_read_as_it_was_written() {
        assert_eq!(read(&written("")), Ok(None));
        assert_eq!(read(&[0; NOTICE_BYTES]), Ok(None));
        for text in ["a", "eight by", "filter clamd is left out", &"ä".repeat(TEXT_BYTES_MAX / 2)]
        {
            assert_eq!(read(&written(text)), Ok(Some(text.to_owned())));
        }
        let long = read(&written(&"ä".repeat(1000))).expect("whole").expect("a text");
        assert!(long.ends_with('…') && long.len() <= TEXT_BYTES_MAX, "{}", long.len());
        assert!(long.len() > TEXT_BYTES_MAX - 4, "{}", long.len());
    }

    #[test]
    fn what_is_not_whole_is_none() {
        let whole = written("filter clamd is left out");
        for at in 0..32 {
            let mut torn = whole.clone();
            torn[at] ^= 0x15;
            assert_eq!(read(&torn), Err(NotWhole), "byte {at}");
        }
        assert_eq!(read(&[1; 4]), Err(NotWhole));
        assert_eq!(read(&[0xff; NOTICE_BYTES]), Err(NotWhole));
    }
}
