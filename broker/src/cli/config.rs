//! `config show`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Outcome;
use super::out::{Format, Out};
use super::serve::SettingArgs;
use super::table::{Side, Table};

/// The settings of the broker.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    Show(ShowArgs),
}

/// Show each setting, its value and where it came from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dure config show\n  dure config show --config /etc/dure.toml -o json")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    output: super::args::OutputArgs,
}

pub(super) fn run(verb: ConfigVerb) -> Outcome {
    let ConfigVerb::Show(args) = verb;
    let settings = args.settings.resolve()?.settings;
    let mut out = Out::default();
    match args.output.format {
        Format::Json => {
            for setting in settings {
                let origin = setting.origin.to_string();
                out.json(&json!({"name": setting.name, "value": setting.value, "origin": origin}));
            }
        }
        // As it would stand in the file.
        Format::Raw => {
            for setting in settings {
                out.line(format!("{} = {}", setting.name, json!(setting.value)));
            }
        }
        Format::Table => {
            let head =
                [("SETTING", Side::Left), ("VALUE", Side::Left), ("FROM", Side::Left), ("", Side::Left)];
            let mut table = Table::new(&head);
            for setting in settings {
                let origin = setting.origin.to_string();
                table.row(vec![setting.name.to_owned(), setting.value, origin, setting.help.to_owned()]);
            }
            out.buffer().extend_from_slice(table.render("").as_bytes());
        }
    }
    out.flush()
}
