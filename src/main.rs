//! The `switchback` binary: commands, and nothing else.

mod load;
mod mock;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use switchback::app::{self, App};
use switchback::b2bua::io::OperatorCommand;
use switchback::config::{Config, LogFormat};
use switchback::stage::{self, Scenario};
use switchback::telemetry;
use tokio::signal::unix::{SignalKind, signal};

/// Lends a customer's call to ASAPP's GenerativeAgent and hands it back.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes calls until SIGTERM; a second SIGTERM ends them at once.
    Run {
        /// The configuration file; `SWITCHBACK__SECTION__KEY` variables come on top.
        #[arg(short, long, env = "SWITCHBACK_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Plays one call on loopback: needs no key, no root, no network.
    Demo {
        /// The story.
        #[arg(long, default_value = "agent", value_parser = clap::builder::PossibleValuesParser::new(Scenario::ALL.map(|(name, _)| name)))]
        scenario: String,
        /// The folder for the recording, the capture, the ladder and the record.
        #[arg(long, default_value = "demo-out")]
        out: PathBuf,
    },
    /// Plays one party alone, so that a team can test one side at a time.
    #[command(subcommand)]
    Mock(mock::Mock),
    /// Puts a Switchback of its own under calls and measures it.
    Load(load::Load),
    /// Reads the configuration and explains what would happen to calls.
    Check {
        /// The configuration file; `SWITCHBACK__SECTION__KEY` variables come on top.
        #[arg(short, long, env = "SWITCHBACK_CONFIG")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config } => run(config),
        Command::Check { config } => check(config),
        Command::Demo { scenario, out } => demo(&scenario, &out),
        Command::Mock(party) => mock::play(party),
        Command::Load(load) => load::play(&load),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchback: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(scenario: &str, out: &Path) -> Result<()> {
    let named = Scenario::ALL.into_iter().find(|(name, _)| *name == scenario);
    let Some((_, scenario)) = named else { anyhow::bail!("no scenario {scenario}") };
    runtime()?.block_on(stage::play(scenario, out))
}

fn check(path: Option<PathBuf>) -> Result<()> {
    let config = Config::load(path.as_deref())?;
    app::sounds(&config)?;
    let mut said = config.explain() + "\n";
    config.warnings().iter().for_each(|warning| said += &format!("warning: {warning}\n"));
    match io::stdout().write_all(said.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()), // who reads no further has read enough
    }
}

fn run(path: Option<PathBuf>) -> Result<()> {
    let config = Config::load(path.as_deref())?;
    let _telemetry = telemetry::start(&config.log.level, config.log.format == LogFormat::Json)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(serve(&config))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn serve(config: &Config) -> Result<()> {
    // Before anybody can see us listen: a signal that comes early waits, and does not kill.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut app = App::start(config, None).await?;
    tracing::info!(sip = ?app.sip, admin = %app.admin, "ready");
    let mut wish = OperatorCommand::Drain;
    let outcome = loop {
        tokio::select! {
            outcome = app.closed() => break outcome,
            _ = hang_up.recv() => {
                tracing::info!("asked to open the record file again, and to read certificates where there are any");
                app.reopen_records();
                app.reload_certificates();
                continue;
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(?wish, "asked to stop");
        app.operate(wish);
        wish = OperatorCommand::Stop;
    };
    app.finish();
    match &outcome {
        Ok(()) => tracing::info!("closed"),
        Err(error) => tracing::error!("{error:#}"),
    }
    outcome
}
