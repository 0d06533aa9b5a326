//! `serve`: the broker as a process.

use std::io::stderr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use dure_broker::{ConfigError, LogFormat, Origin, Resolved, SETTINGS, ServeError, resolve};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::failure::{Failure, Outcome};
use super::out::{Out, colour};
use super::signals::Signals;

/// Run the broker.
///
/// When it is ready it prints one line of JSON on stdout; logs go to stderr, RUST_LOG chooses which. SIGTERM or Ctrl-C
/// stop it in order, a second one at once. Settings are taken from flags, then DURE_… variables, then the file, then
/// the defaults; `dure config show` tells which.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure serve --data /var/lib/dure\n  \
    DURE_LISTEN=127.0.0.1:0 dure serve --log-format json\n  \
    dure serve --config /etc/dure.toml --connections-max 500")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
}

/// A flag for every setting that the broker knows, and `--config`.
#[derive(Debug)]
pub(super) struct SettingArgs {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String)>,
}

impl SettingArgs {
    /// The settings in force.
    pub(super) fn resolve(&self) -> Outcome<Resolved> {
        let variables = std::env::vars_os();
        let environment =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        resolve(&self.flags, environment, self.file.as_deref()).map_err(refused)
    }
}

fn refused(error: ConfigError) -> Failure {
    let by_flag = matches!(
        &error,
        ConfigError::BadValue { origin: Origin::Flag(_), .. }
            | ConfigError::UnknownKey { origin: Origin::Flag(_), .. }
    );
    if by_flag { Failure::Usage(error.to_string()) } else { Failure::Failed(error.to_string()) }
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("DURE_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("TOML file with the same names as these flags");
        let defaults = resolve(&[], [], None).expect("the defaults are valid").settings;
        SETTINGS.iter().zip(defaults).fold(command.arg(file), |command, (setting, default)| {
            let arg = Arg::new(setting.name).long(setting.name);
            let arg = if setting.name == "insecure" {
                arg.action(ArgAction::SetTrue).help(setting.help)
            } else {
                let shown = match default.value.as_str() {
                    "" => setting.help.to_owned(),
                    value => format!("{} [default: {value}]", setting.help),
                };
                arg.value_name(value_name(setting.name)).help(shown)
            };
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn value_name(setting: &str) -> &'static str {
    match setting {
        "data" => "DIR",
        "listen" | "http" => "ADDR",
        "http-hosts" => "NAMES",
        "log-format" => "text|json",
        "connections-max" => "N",
        name if name.ends_with("-timeout") => "DURATION",
        _ => "SIZE",
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let name = setting.name;
            let value = if name == "insecure" {
                matches.get_flag(name).then(|| "true".to_owned())
            } else {
                matches.get_one::<String>(name).cloned()
            };
            Some((name, value?))
        });
        Ok(SettingArgs { file: matches.get_one::<PathBuf>("config").cloned(), flags: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The line that says where the broker is.
#[derive(Serialize)]
struct Ready<'a> {
    event: &'a str,
    native: SocketAddr,
    http: SocketAddr,
    data: &'a Path,
}

pub(super) async fn run(args: ServeArgs) -> Outcome {
    let options = args.settings.resolve()?.options;
    log_for_serving(options.log_format);
    let mut signals = Signals::listen(|| tracing::warn!("a second signal: stopping at once"))?;
    let starting = dure_broker::serve(options);
    let running = tokio::select! {
        started = starting => started.map_err(not_started)?,
        _ = signals.asked() => return Ok(()),
    };
    let ready =
        Ready { event: "ready", native: running.native(), http: running.http(), data: running.data() };
    let mut out = Out::default();
    out.json(&ready);
    if let Err(failure) = out.flush() {
        // Whoever started it may have closed its stdout; that is no reason not to serve.
        tracing::warn!(?failure, "the line that says it is ready cannot be written");
    }
    tokio::select! {
        () = running.wait() => Err(Failure::failed("the broker stopped by itself; its log says why")),
        _ = signals.asked() => {
            running.shutdown();
            running.wait().await;
            Ok(())
        }
    }
}

fn not_started(error: ServeError) -> Failure {
    match error {
        ServeError::Config(error) => refused(error),
        error => Failure::failed(format!("cannot start the broker: {error}")),
    }
}

fn log_for_serving(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_writer(stderr).with_env_filter(filter);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(colour(std::io::IsTerminal::is_terminal(&stderr()))).init(),
    }
}

/// What the client library has to say to whoever runs a tool: nothing unless RUST_LOG asks for it, or it matters.
pub(super) fn log_for_tools() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let ansi = colour(std::io::IsTerminal::is_terminal(&stderr()));
    tracing_subscriber::fmt().with_writer(stderr).with_env_filter(filter).with_ansi(ansi).init();
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn every_setting_is_a_flag() {
        for setting in SETTINGS {
            let line = match setting.name {
                "insecure" => vec!["dure".to_owned(), "--insecure".to_owned()],
                name => vec!["dure".to_owned(), format!("--{name}"), "x".to_owned()],
            };
            let settings = Line::parse_from(line).serve.settings;
            assert_eq!(settings.flags.len(), 1);
            assert_eq!(settings.flags[0].0, setting.name);
        }
    }

    #[test]
    fn a_bad_flag_is_wrong_usage_and_a_bad_file_is_not() {
        let flag = resolve(&[("listen", "x".to_owned())], [], None).unwrap_err();
        assert!(matches!(refused(flag), Failure::Usage(_)));
        let variable = resolve(&[], [("DURE_LISTEN".to_owned(), "x".to_owned())], None).unwrap_err();
        assert!(matches!(refused(variable), Failure::Failed(_)));
    }
}
