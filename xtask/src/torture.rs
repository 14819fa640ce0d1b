//! `cargo xtask torture`: the program with fault points, and the program of crate `tests` that tortures it.

use crate::process::{cargo, succeeds};
use crate::{Failure, packages, test};

/// Builds both and lets one torture the other; the options are the latter's.
pub(crate) fn run(options: &[&str]) -> Result<bool, Failure> {
    packages::provide()?;
    let Some(binary) = test::build_with_faults()? else { return Ok(false) };
    let mut command = cargo(&["run", "--quiet", "--package", "tests", "--bin", "torture", "--"]);
    succeeds(command.args(options).env("GRANGE_BINARY", binary))
}
