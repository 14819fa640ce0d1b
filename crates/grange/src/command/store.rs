//! `grange store …`: the tables of a queue that is in a database.

use std::process::ExitCode;

use config::ByteSize;
use queue_postgres::{Fault, Found, VERSION};

use super::{Failure, block_on, table};
use crate::cli;
use crate::configuration::Configuration;

/// Runs a command on the database.
pub(super) fn run(configuration: &Configuration, command: cli::Store) -> Result<ExitCode, Failure> {
    let Some(database) = configuration.stores().database()? else {
        let text = "the queue is in the spool: queue.store names no database";
        return Err(Failure::Usage(text.to_owned()));
    };
    let name = database.name();
    match command {
        cli::Store::Init => match block_on(queue_postgres::init(&database))?.map_err(failed)? {
            Found::Nothing => println!("{name}: made, schema version {VERSION}"),
            Found::Version(version) => println!("{name}: there already, schema version {version}"),
        },
        cli::Store::Migrate => {
            match block_on(queue_postgres::migrate(&database))?.map_err(failed)? {
                Found::Version(VERSION) => println!("{name}: has schema version {VERSION} already"),
                Found::Version(before) => {
                    println!("{name}: from schema version {before} to {VERSION}");
                }
                Found::Nothing => println!("{name}: made, schema version {VERSION}"),
            }
        }
        cli::Store::Check => {
            block_on(queue_postgres::check(&database))?.map_err(failed)?;
            println!("{name}: schema version {VERSION}, and it keeps what it has committed");
            let verified = queue_postgres::verify(&database, |handle, what| {
                println!("{handle}: {}", table::plain(what));
            });
            let verified = block_on(verified)?.map_err(anyhow::Error::from)?;
            let (messages, bytes) = (verified.messages, ByteSize(verified.bytes));
            println!(
                "{name}: {messages} messages are whole, {bytes} of bodies; {} damaged",
                verified.damaged
            );
            if verified.damaged > 0 {
                return Ok(ExitCode::from(65));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(fault: Fault) -> Failure {
    match fault {
        Fault::Version { .. } => Failure::System(fault.into()),
        fault => Failure::Unavailable(format!("{:#}", anyhow::Error::from(fault))),
    }
}
