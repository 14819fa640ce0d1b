//! Where lines go: the standard error, or a file, which is opened anew once another stands under its name.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The most bytes that a pipe takes in one piece (Linux: PIPE_BUF): what is longer may be torn by another process's lines.
const PIECE_BYTES_MAX: usize = 4096;
/// How often a log file is looked for under its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The mode of a log that is made.
pub(crate) const MODE: u32 = 0o640;

/// An open log.
pub(super) enum Output {
    /// Lines are written one after the other, as other processes write to the same pipe.
    Stderr { in_pieces: bool },
    /// Appended to as a whole.
    File(LogFile),
}

/// A log file by its name.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
}

impl Output {
    /// Opens the log; one that cannot be opened is the standard error.
    pub(super) fn open(to: &str) -> Self {
        if to == "stderr" {
            return Self::stderr();
        }
        match LogFile::open(Path::new(to)) {
            Ok(file) => Self::File(file),
            Err(error) => {
                eprintln!("cannot open the log {to}: {error}; logging to stderr");
                Self::stderr()
            }
        }
    }

    fn stderr() -> Self {
        let regular = metadata_of(io::stderr().as_fd()).is_ok_and(|found| found.is_file());
        Self::Stderr { in_pieces: !regular }
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr { in_pieces: true } => {
                pieces(lines).try_for_each(|piece| io::stderr().write_all(piece))
            }
            Self::Stderr { in_pieces: false } => io::stderr().write_all(lines),
            Self::File(file) => file.write(lines, Instant::now()),
        }
    }
}

fn metadata_of(descriptor: BorrowedFd<'_>) -> io::Result<Metadata> {
    File::from(descriptor.try_clone_to_owned()?).metadata()
}

/// Cuts lines into pieces that a pipe takes whole; a line that is longer than that is a piece of its own.
fn pieces(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_end = |byte: &u8| *byte == b'\n';
        let most = rest.get(..PIECE_BYTES_MAX).filter(|_| rest.len() > PIECE_BYTES_MAX);
        let length = match most {
            None => rest.len(),
            Some(most) => match most.iter().rposition(is_end) {
                Some(last) => last + 1,
                None => rest.iter().position(is_end).map_or(rest.len(), |end| end + 1),
            },
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        Ok(Self { path: path.to_owned(), file, looked: Instant::now() })
    }

    fn write(&mut self, lines: &[u8], now: Instant) -> io::Result<()> {
        if now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            self.follow();
        }
        self.file.write_all(lines)
    }

    /// Takes up another file that stands under the name now. While there is none, the one that was moved away is written on: who
    /// may make the new one is not always this process.
    fn follow(&mut self) {
        let (Ok(named), Ok(open)) = (std::fs::metadata(&self.path), self.file.metadata()) else {
            return;
        };
        if (named.dev(), named.ino()) == (open.dev(), open.ino()) {
            return;
        }
        if let Ok(file) = OpenOptions::new().append(true).open(&self.path) {
            self.file = file;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_a_line_and_fit_a_pipe() {
        let line = |length: usize| format!("{}\n", "x".repeat(length - 1));
        for lengths in
            [vec![], vec![10], vec![4096, 1], vec![100; 100], vec![5000, 10, 5000], vec![4000, 200]]
        {
            let text: String = lengths.iter().map(|length| line(*length)).collect();
            let cut: Vec<&[u8]> = pieces(text.as_bytes()).collect();
            assert_eq!(cut.concat(), text.as_bytes(), "{lengths:?}");
            for piece in cut {
                let lines = piece.iter().filter(|byte| **byte == b'\n').count();
                assert!(piece.ends_with(b"\n"), "{lengths:?}");
                assert!(piece.len() <= PIECE_BYTES_MAX || lines == 1, "{lengths:?}");
            }
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_the_one_in_its_place() {
        let folder = std::env::temp_dir().join(format!("grange-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, old) = (folder.join("log"), folder.join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        let begun = Instant::now();
        log.write(b"1\n", begun).unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.write(b"2\n", begun + LOOK_EVERY * 2).unwrap();
        std::fs::write(&path, "").unwrap();
        log.write(b"3\n", begun + LOOK_EVERY * 4).unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "1\n2\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3\n");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
