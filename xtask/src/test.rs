//! `cargo xtask test`: everything that a change must pass, counted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bench::instructions;
use crate::process::{cargo, is_root, lines, succeeds, target_dir};
use crate::{Failure, fuzz, packages, root, tidy, usage};

/// How `cargo xtask test` was asked to run.
#[derive(Debug, Default)]
pub(crate) struct Options {
    filter: Option<String>,
    fast: bool,
}

impl Options {
    /// Takes the words after `test`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--fast" => options.fast = true,
                "--filter" => {
                    let text = words.next().ok_or_else(|| usage("--filter needs a text"))?;
                    options.filter = Some((*text).to_owned());
                }
                other => return Err(usage(format!("test does not know {other}"))),
            }
        }
        Ok(options)
    }

    /// Whether a step is to run: all are, unless the filter names one, or tests within the steps that have many.
    fn wants(&self, step: &str) -> bool {
        match self.filter.as_deref() {
            None => true,
            Some(filter) if STEPS.contains(&filter) => filter == step,
            Some(_) => step == "unit" || step == "system",
        }
    }

    /// What the names of tests must hold, within a step.
    fn tests(&self) -> Option<&str> {
        self.filter.as_deref().filter(|filter| !STEPS.contains(filter))
    }
}

/// The profile with which the system tests' program is built.
const PROFILE: &str = "faults";
/// How many lines about the failed tests of one program are told again at the end.
const SAID_LINES_MAX: usize = 200;

/// The steps, by name.
const STEPS: &[&str] =
    &["fmt", "clippy", "tidy", "unit", "simulation", "system", "fuzz", "instructions"];

/// How many crashes of the simulated disk a whole run makes, and a fast one.
const CRASHES: (u64, u64) = (20_000, 2_000);
/// How many seeds of the whole-system simulation.
const SEEDS: (u64, u64) = (2_000, 200);

/// How many tests passed and failed; a step that is no test run counts as one test.
#[derive(Debug, Default, Clone)]
pub(crate) struct Count {
    passed: u64,
    failed: u64,
    /// What the failed tests said.
    said: Vec<String>,
}

impl Count {
    /// One test with this end.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), said: Vec::new() }
    }

    /// Whether nothing failed.
    pub(crate) fn is_well(&self) -> bool {
        self.failed == 0
    }

    /// Whether nothing was run.
    fn is_nothing(&self) -> bool {
        self.passed + self.failed == 0
    }

    /// Adds another count to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.said.extend(other.said);
    }
}

/// Runs the steps, each whatever became of those before, and prints the count as the last line.
pub(crate) fn run(options: &Options) -> Result<bool, Failure> {
    let mut report = Report::default();
    // The system tests, and a few unit tests, run other people's programs; what can run without them does so.
    let needed = options.wants("system") || options.wants("unit");
    let provided = !needed || report.step("packages", provide);
    if !options.fast && options.wants("fmt") {
        report.step("fmt", || one(succeeds(&mut cargo(&["fmt", "--all", "--check"]))));
    }
    if !options.fast && options.wants("clippy") {
        report.step("clippy", clippy);
    }
    if options.wants("tidy") {
        report.step("tidy", || one(tidy::run()));
    }
    if options.wants("unit") {
        report.step("unit", || unit(options));
    }
    if options.wants("simulation") {
        report.step("simulation", || simulation(options));
    }
    if options.wants("system") {
        report.step("system", || match provided {
            true => system(options),
            false => Err("not run: see packages".into()),
        });
    }
    if options.wants("fuzz") {
        let seconds = if options.fast { 2 } else { 8 };
        report.step("fuzz", || fuzz::run(Duration::from_secs(seconds)));
    }
    if !options.fast && options.wants("instructions") {
        report.step("instructions", instructions::check);
    }
    report.print();
    let mut count = std::mem::take(&mut report.count);
    if let Some(text) = options.tests().filter(|_| count.is_nothing()) {
        println!("no test has {text:?} in its name; steps are {}\n", STEPS.join(", "));
        count.add(Count::one(false));
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(count.failed == 0)
}

/// Sees to what the system tests need, and says what they cannot do without.
fn provide() -> Result<Count, Failure> {
    if !is_root() {
        println!(
            "the system tests run farms as root does, under an account without rights: those that do fail for anybody else"
        );
    }
    packages::provide().map(|()| Count::default())
}

fn clippy() -> Result<Count, Failure> {
    let lints = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    one(succeeds(&mut cargo(&lints)))
}

/// The simulations at their full scale: what runs among the unit tests is a small part of them.
fn simulation(options: &Options) -> Result<Count, Failure> {
    let crashes = if options.fast { CRASHES.1 } else { CRASHES.0 };
    let spool = ["--profile", "simulation", "--package", "queue-spool", "--lib", "at_any_point"];
    let mut count = tests(&spool, &["--nocapture"], &[("SPOOL_CRASHES", &crashes.to_string())])?;
    if count.is_nothing() {
        return Err("the simulated disk has no test of that name".into());
    }
    let seeds = if options.fast { SEEDS.1 } else { SEEDS.0 }.to_string();
    let system = ["run", "--quiet", "--profile", "simulation", "--package", "sim", "--", "--seeds"];
    count.add(one(succeeds(cargo(&system).arg(&seeds)))?);
    Ok(count)
}

/// What the crates say of themselves: tests within them, and those that are programs of their own.
///
/// Cargo unifies the features of what it builds at once, so both this and the system tests select the whole workspace: else most
/// dependencies would be built twice.
fn unit(options: &Options) -> Result<Count, Failure> {
    let words: Vec<&str> = options.tests().into_iter().collect();
    let mut programs = BTreeSet::new();
    for folder in unit_folders()? {
        programs.extend(programs_in(&folder)?);
    }
    let mut which = vec!["--workspace", "--lib", "--bins"];
    which.extend(programs.iter().flat_map(|name| ["--test", name]));
    let mut count = tests(&which, &words, &[])?;
    count.add(tests(&["--workspace", "--doc"], &words, &[])?);
    Ok(count)
}

/// The folders `tests` of all packages but that of the system tests.
fn unit_folders() -> Result<Vec<PathBuf>, Failure> {
    let mut folders = Vec::new();
    for parent in [root(), root().join("crates")] {
        for entry in std::fs::read_dir(parent)? {
            let package = entry?.path();
            if package.join("Cargo.toml").is_file() && package != root().join("tests") {
                folders.push(package.join("tests"));
            }
        }
    }
    Ok(folders)
}

/// The names of the tests in a package's folder `tests` that are programs of their own.
fn programs_in(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut names = BTreeSet::new();
    if !folder.is_dir() {
        return Ok(names);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_program =
            path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
        if let (true, Some(name)) = (is_program, path.file_stem()) {
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The system tests: the real program on loopback, built like the one that is shipped, but with fault points and every assertion.
fn system(options: &Options) -> Result<Count, Failure> {
    let Some(binary) = build_with_faults()? else { return Ok(Count::one(false)) };
    // Timing matters to the system tests, and some of them load the machine.
    let words: Vec<&str> = options.tests().into_iter().chain(["--test-threads=2"]).collect();
    let programs = programs_in(&root().join("tests/tests"))?;
    let mut which = vec!["--workspace"];
    which.extend(programs.iter().flat_map(|name| ["--test", name]));
    tests(&which, &words, &[("GRANGE_BINARY", &binary)])
}

/// Builds the program with fault points, and says where it is; nothing when it does not build.
pub(crate) fn build_with_faults() -> Result<Option<String>, Failure> {
    let arguments =
        ["build", "--quiet", "--profile", PROFILE, "--package", "grange", "--features", "faults"];
    if !succeeds(&mut cargo(&arguments))? {
        return Ok(None);
    }
    let binary = target_dir()?.join(PROFILE).join("grange");
    let binary = binary.to_str().ok_or("the target directory's name is not UTF-8")?;
    Ok(Some(binary.to_owned()))
}

/// Runs `cargo test` and adds up what libtest says at the end of each test program, which is given `words`.
fn tests(which: &[&str], words: &[&str], environment: &[(&str, &str)]) -> Result<Count, Failure> {
    let mut arguments = vec!["test", "--quiet", "--no-fail-fast"];
    arguments.extend_from_slice(which);
    arguments.push("--");
    arguments.extend_from_slice(words);
    let mut count = Count::default();
    let mut command = cargo(&arguments);
    command.envs(environment.iter().copied());
    let mut failures: Option<Vec<String>> = None;
    let succeeded = lines(&mut command, |line| {
        if line == "failures:" {
            failures.get_or_insert_default();
        } else if let Some(failures) = &mut failures {
            failures.push(line.to_owned());
        }
        match result(line) {
            Some(result) => {
                count.add(result);
                count.said.extend(failures.take().into_iter().flat_map(in_short));
            }
            None if line.is_empty() || line.starts_with("running ") => return,
            None => {}
        }
        println!("{line}");
    })?;
    // A test program that does not compile, or dies, says nothing.
    if !succeeded && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// What a line `test result: ok. 3 passed; 0 failed; …` says.
fn result(line: &str) -> Option<Count> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name: &str| {
        rest.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse::<u64>().ok())
    };
    Some(Count { passed: number("passed")?, failed: number("failed")?, said: Vec::new() })
}

/// The lines about failed tests that tell most: the first, in which each says why, without the frames of a backtrace.
fn in_short(lines: Vec<String>) -> impl Iterator<Item = String> {
    let is_frame = |line: &String| {
        let line = line.trim_start();
        line.starts_with("at ")
            || line.split_once(": ").is_some_and(|(n, _)| n.parse::<u32>().is_ok())
    };
    lines.into_iter().filter(move |line| !line.is_empty() && !is_frame(line)).take(SAID_LINES_MAX)
}

fn one(passed: Result<bool, Failure>) -> Result<Count, Failure> {
    passed.map(Count::one)
}

/// What each step came to, for the summary.
#[derive(Default)]
struct Report {
    count: Count,
    steps: Vec<(&'static str, Count, Duration)>,
}

impl Report {
    /// Runs a step; says whether nothing in it failed.
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<Count, Failure>) -> bool {
        println!("\n== {name}");
        let begun = Instant::now();
        let count = work().unwrap_or_else(|failure| {
            println!("{name}: {failure}");
            Count::one(false)
        });
        let is_well = count.is_well();
        self.count.add(count.clone());
        self.steps.push((name, count, begun.elapsed()));
        is_well
    }

    /// Prints what failed once more, where it is found at once, and the table.
    fn print(&self) {
        for (name, count, _) in self.steps.iter().filter(|(_, count, _)| !count.said.is_empty()) {
            println!("\n== failed in {name}");
            count.said.iter().for_each(|line| println!("{line}"));
        }
        println!("\n{:<12} {:>7} {:>7} {:>8}", "step", "passed", "failed", "seconds");
        for (name, count, took) in &self.steps {
            println!("{name:<12} {:>7} {:>7} {:>8}", count.passed, count.failed, took.as_secs());
        }
        println!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.01s";
        let count = result(line).expect("a result line");
        assert_eq!((count.passed, count.failed), (12, 3));
        assert!(result("test smtp::session ... ok").is_none());
        assert!(result("test result: ok").is_none());
    }

    #[test]
    fn a_program_of_tests_belongs_to_one_step() {
        let system = programs_in(&root().join("tests/tests")).expect("it can be read");
        assert!(system.contains("clients"));
        let farm = programs_in(&root().join("crates/farm/tests")).expect("it can be read");
        assert_eq!(farm.into_iter().collect::<Vec<_>>(), ["farms"]);
        let folders = unit_folders().expect("they can be read");
        assert!(folders.contains(&root().join("sim/tests")), "packages beside `crates` count too");
        for folder in folders {
            let own = programs_in(&folder).expect("it can be read");
            assert!(
                own.is_disjoint(&system),
                "a name of {} is a system test's too",
                folder.display()
            );
        }
    }

    #[test]
    fn what_failed_is_told_in_short() {
        let said = [
            "",
            "---- a stdout ----",
            "panicked: 3 of 4",
            "stack backtrace:",
            "   0: main",
            "        at ./a.rs:1:2",
        ];
        let short: Vec<String> = in_short(said.map(str::to_owned).to_vec()).collect();
        assert_eq!(short, ["---- a stdout ----", "panicked: 3 of 4", "stack backtrace:"]);
    }

    #[test]
    fn a_step_that_cannot_run_is_counted_and_stops_no_other() {
        let mut report = Report::default();
        assert!(!report.step("packages", || Err("swaks is missing".into())));
        assert!(report.step("fmt", || Ok(Count::one(true))));
        assert_eq!((report.count.passed, report.count.failed), (1, 1));
        assert!(Count::default().is_nothing() && !report.count.is_nothing());
    }

    #[test]
    fn options_are_taken_or_refused() {
        let options = Options::parse(&["--fast", "--filter", "spool"]).expect("good options");
        assert!(options.fast && options.wants("unit") && !options.wants("fmt"));
        assert_eq!(options.tests(), Some("spool"));
        let options = Options::parse(&["--filter", "fuzz"]).expect("good options");
        assert!(options.wants("fuzz") && !options.wants("unit"));
        assert!(Options::parse(&["--filter"]).is_err());
        assert!(Options::parse(&["--slow"]).is_err());
    }
}
