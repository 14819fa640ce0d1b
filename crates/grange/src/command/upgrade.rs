//! `grange upgrade`: lets what runs go on as the program that this is.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use farm::upgrade::{self, Report, UpgradeError};

use super::Failure;
use crate::configuration::Configuration;
use crate::farms;

/// How long to wait for new workers to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks the configuration with this program, then has the running farms go on as it.
pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    let configuration = Configuration::load(path)?;
    configuration.stores().check_version()?;
    let names = farms::names(&configuration);
    for name in &names {
        farms::farm(&configuration, name)?;
    }
    let program = std::env::current_exe().context("cannot find the file of this program")?;
    let run_dir = &configuration.top.run_dir;
    match upgrade::upgrade(run_dir, &program, &names, PATIENCE) {
        Ok(report) => {
            print(&report, &program);
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ UpgradeError::NotRunning(_)) => {
            Err(Failure::Unavailable(format!("{error}: is grange running?")))
        }
        Err(error @ UpgradeError::Refused(_)) => Err(Failure::System(error.into())),
        Err(error @ UpgradeError::Stayed(_)) => {
            Err(Failure::Refused(format!("{error} (the log says why)")))
        }
    }
}

fn print(report: &Report, program: &Path) {
    let version = env!("CARGO_PKG_VERSION");
    println!("grange {version} ({}) runs now", program.display());
    for pid in &report.supervisors {
        println!("  grange run: process {pid} goes on");
    }
    for farm in &report.farms {
        let how = if farm.restarted { "was started anew" } else { "goes on" };
        print!("  {}: manager {} {how}, {} new workers ready", farm.farm, farm.manager, farm.ready);
        match farm.draining {
            0 => println!(),
            draining => println!(", {draining} old ones finish what they have"),
        }
    }
}
