//! `grange run` and `grange farm NAME`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use farm::manager::{self, Farm};
use farm::supervisor::{self, Plan};

use super::{Failure, chain};
use crate::cli;
use crate::configuration::Configuration;
use crate::{farms, logging, privilege};

/// Supervises the managers of this host's farms.
pub(super) fn run(path: &Path, options: cli::Run) -> Result<ExitCode, Failure> {
    let configuration = Configuration::load_here(path)?;
    configuration.stores().check_version()?;
    let only = options.only;
    let first = plan(&configuration, &only)?;
    privilege::prepare(&configuration)?;
    logging::start_direct(&configuration.log, "grange");
    for notice in &configuration.notices {
        tracing::info!("{notice}");
    }
    let mut reload = || reload(path, &only).map_err(|failure| chain(&failure));
    supervisor::run(first, &mut reload).map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the configuration again, and makes what is new in it: a log file that was moved away is made anew.
fn reload(path: &Path, only: &[String]) -> Result<Plan, Failure> {
    let configuration = Configuration::load_with_tables(path)?;
    let plan = plan(&configuration, only)?;
    privilege::prepare(&configuration)?;
    Ok(plan)
}

fn plan(configuration: &Configuration, only: &[String]) -> Result<Plan, Failure> {
    let names = farms::names(configuration);
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        let known = names.join(", ");
        return Err(Failure::Usage(format!("there is no farm {unknown}; there are {known}")));
    }
    let wanted = |name: &String| only.is_empty() || only.contains(name);
    let listeners = farms::listeners(configuration)?;
    Ok(Plan {
        farms: names.into_iter().filter(wanted).collect(),
        tcp: listeners.into_iter().filter(|(farm, _)| wanted(farm)).collect(),
        arguments: vec!["--config".to_owned(), text_of(&configuration.path)?],
        run_dir: configuration.top.run_dir.clone(),
        data_dir: configuration.top.data_dir.clone(),
        user: privilege::user(&configuration.top).map_err(anyhow::Error::from)?,
        admin_group: privilege::admin_group(&configuration.top).map_err(anyhow::Error::from)?,
    })
}

fn text_of(path: &Path) -> Result<String, Failure> {
    let absolute = std::path::absolute(path)?;
    let text = absolute.to_str().context("the configuration's path is not UTF-8")?;
    Ok(text.to_owned())
}

/// Manages one farm.
pub(super) fn farm(path: &Path, name: &str) -> Result<ExitCode, Failure> {
    let configuration = Configuration::load_here(path)?;
    configuration.stores().check_version()?;
    let first = load(&configuration, name)?;
    let mut reload = || {
        let configuration = Configuration::load_with_tables(path).map_err(Failure::from);
        configuration.and_then(|it| load(&it, name)).map_err(|failure| chain(&failure))
    };
    manager::run(first, &mut reload).map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}

/// Takes of the configuration only what this farm's manager needs.
fn load(configuration: &Configuration, name: &str) -> Result<Farm, Failure> {
    if !farms::names(configuration).iter().any(|known| known == name) {
        let known = farms::names(configuration).join(", ");
        return Err(Failure::Usage(format!("there is no farm {name}; there are {known}")));
    }
    privilege::prepare(configuration)?;
    static LOG: std::sync::Once = std::sync::Once::new();
    LOG.call_once(|| logging::start_direct(&configuration.log, name));
    Ok(farms::farm(configuration, name)?)
}
