//! Printing for people and programs who may have seen enough.
//!
//! A reader may close its end at any time (`grange queue list | head`): that is no failure, and nothing more is to be said. The
//! standard library's `println!` panics there, so those of this module stand in its place in all of this program.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Prints a line.
macro_rules! println {
    () => { $crate::print::text(format_args!("\n")) };
    ($($arguments:tt)*) => {
        $crate::print::text(format_args!("{}\n", format_args!($($arguments)*)))
    };
}

/// Prints text as it is.
macro_rules! print {
    ($($arguments:tt)*) => { $crate::print::text(format_args!($($arguments)*)) };
}

static GOES_ON: AtomicBool = AtomicBool::new(false);

/// Lets this process go on without a reader: it has something to clean up.
pub fn go_on_unread() {
    GOES_ON.store(true, Ordering::Relaxed);
}

/// Prints what is formatted; ends the process when nobody reads it any more.
pub fn text(arguments: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    finish(out.write_fmt(arguments));
}

/// Prints bytes; ends the process when nobody reads them any more.
pub fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    finish(out.write_all(bytes).and_then(|()| out.flush()));
}

fn finish(printed: std::io::Result<()>) {
    let Err(error) = printed else { return };
    if GOES_ON.load(Ordering::Relaxed) {
        return;
    }
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("grange: cannot print: {error}");
    std::process::exit(74);
}
