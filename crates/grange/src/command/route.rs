//! `grange route ADDRESS`: explains each decision, by the router's own code.

use std::process::ExitCode;

use job::verify::Client;
use router::{Rules, Step};

use super::{Failure, table};
use crate::cli;
use crate::configuration::Configuration;
use crate::farms;

/// Explains where mail for an address would go.
pub(super) fn run(
    configuration: &Configuration,
    options: &cli::Route,
) -> Result<ExitCode, Failure> {
    let (rules, notices) =
        Rules::load(&farms::router_assignment(configuration)).map_err(anyhow::Error::from)?;
    for notice in notices {
        eprintln!("note: {notice}");
    }
    let mut steps = rules.explain(&options.address, options.from.as_ref());
    if let Some(address) = options.client {
        let may_relay = configuration.smtpserver.may_relay(address);
        let client = Client { address: Some(address), may_relay };
        steps.retain(|step| !matches!(step, Step::Verdict { .. }));
        let verdict = rules.verify(&options.address, &client);
        steps.push(Step::Verdict { may_relay, verdict });
    }
    if options.output.json {
        table::json(&steps)?;
        return Ok(ExitCode::SUCCESS);
    }
    for step in steps {
        println!("{}", table::plain(&step.to_string()));
    }
    Ok(ExitCode::SUCCESS)
}
