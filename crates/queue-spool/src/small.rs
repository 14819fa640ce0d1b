//! Small files that hold one number, `format` and `next`: the number, a space, its sum as eight hexadecimal digits, a line end.

use std::io;
use std::path::Path;

use crate::disk::{Access, Disk};

/// The longest such file, in bytes.
const BYTES_MAX: usize = 256;

/// What a small file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Small {
    /// A number, and its sum is right; or a number alone, as another version may have written it.
    Number(u64),
    /// Nothing that can be trusted.
    Damaged,
    /// There is no such file.
    Missing,
}

/// Reads a small file.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> io::Result<Small> {
    let file = match disk.open(path, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Small::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Small::Damaged),
        file => file?,
    };
    let mut bytes = vec![0; BYTES_MAX];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(parse(&bytes).map_or(Small::Damaged, Small::Number))
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let line = str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (digits, sum) = match line.split_once(' ') {
        Some((digits, sum)) => (digits, Some(sum)),
        None => (line, None),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let right = sum.is_none_or(|sum| sum == sum_of(digits));
    digits.parse().ok().filter(|_| right)
}

fn sum_of(digits: &str) -> String {
    format!("{:08x}", crc32c::crc32c(digits.as_bytes()))
}

/// Puts a number in place durably: written aside, synced, renamed, and the directory synced.
///
/// `aside` must be a name that no other process uses at the same time.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    aside: &str,
    number: u64,
) -> io::Result<()> {
    let aside = dir.join(aside);
    match disk.unlink(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (digits, file) = (number.to_string(), disk.create(&aside)?);
    file.write_at(format!("{digits} {}\n", sum_of(&digits)).as_bytes(), 0)?;
    file.sync()?;
    disk.rename(&aside, &dir.join(name))?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        for number in [0, 1, 7, 1_795_881_234, u64::MAX] {
            let digits = number.to_string();
            let text = format!("{digits} {}\n", sum_of(&digits));
            assert_eq!(parse(text.as_bytes()), Some(number));
            for bit in 0..8 * text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse(&bytes), None, "bit {bit} of {text:?}");
            }
        }
        assert_eq!(parse(b"2\n"), Some(2), "another version's");
        for wrong in ["", "\n", "x\n", "1", "-1\n", "1 2 3\n", "99999999999999999999999\n"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
