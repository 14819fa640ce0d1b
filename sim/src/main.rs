//! `sim`: runs seeds of the whole-system simulation, and says which violate what.
//!
//! `--seed N` runs one, and tells every step with `--tell`; `--seeds N` runs so many, from `--from N` on, until one fails with `--stop`.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::Seen;

/// Seeds run at once: as many as the machine has cores.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1)?.parse::<u64>().ok()
    };
    if let Some(seed) = number("--seed") {
        if words.iter().any(|word| word == "--tell") {
            sim::tell_all();
        }
        println!("{:?}", sim::run(seed));
        return ExitCode::SUCCESS;
    }
    let stops = words.iter().any(|word| word == "--stop");
    let first = number("--from").unwrap_or(0);
    let (next, last) = (AtomicU64::new(first), first + number("--seeds").unwrap_or(100));
    let sum = Mutex::new((Seen::default(), 0u64));
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| sim::run(seed))) {
                        Ok(seen) => sum.lock().expect("no panic holds it").0.add(&seen),
                        Err(cause) => {
                            println!("seed {seed}: {}", words_of(&*cause));
                            println!(
                                "  replay: cargo run --profile simulation -p sim -- --seed {seed}"
                            );
                            sum.lock().expect("no panic holds it").1 += 1;
                            if stops {
                                next.store(last, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let (seen, violated) = sum.into_inner().expect("no panic held it");
    println!("{} seeds, {violated} violated an invariant; {seen}", last - first);
    if violated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a panic said.
fn words_of(cause: &(dyn std::any::Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}
