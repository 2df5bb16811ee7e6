//! The completions for bash, zsh and fish: `clap_complete` knows the options, and what is in `text/units.*` the names
//! of units, from systemd.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::{Shell, generate};

use crate::Made;

/// What zsh completes a unit's name with, until it is ours: no option is an e-mail address.
const PLACEHOLDER: (ValueHint, &str) = (ValueHint::EmailAddress, ":_email_addresses");

pub(crate) fn scripts() -> Vec<Made> {
    let mut command = command();
    let mut script = |shell| {
        let mut bytes = Vec::new();
        generate(shell, &mut command, "wakeport", &mut bytes);
        String::from_utf8(bytes).expect("scripts are text")
    };
    let (bash, zsh, fish) = (script(Shell::Bash), script(Shell::Zsh), script(Shell::Fish));
    let (options, register) = zsh
        .split_once("\nif [ \"$funcstack[1]\"")
        .expect("zsh's script ends like this");
    let zsh = format!(
        "{}\n{}\nif [ \"$funcstack[1]\"{register}",
        options.replace(PLACEHOLDER.1, ":_wakeport_units"),
        include_str!("../text/units.zsh"),
    );
    let made = |name: &str, text: String| Made {
        path: format!("completions/{name}").into(),
        text,
    };
    vec![
        made("wakeport.bash", bash + include_str!("../text/units.bash")),
        made("_wakeport", zsh),
        made("wakeport.fish", fish + include_str!("../text/units.fish")),
    ]
}

/// The command line without what is hidden, and with the values that can be completed.
fn command() -> Command {
    let whole = wakeport::cli::command();
    let seen = whole.get_subcommands().filter(|one| !one.is_hide_set());
    let version = whole.get_version().unwrap_or_default().to_owned();
    Command::new("wakeport")
        .version(version)
        .disable_help_subcommand(true)
        .subcommands(seen.map(|one| one.clone().mut_args(hinted)))
}

fn hinted(argument: Arg) -> Arg {
    let names = argument.get_value_names().unwrap_or_default();
    let name = names.first().map(ToString::to_string).unwrap_or_default();
    let hint = match name.as_str() {
        "yes|no" => {
            return argument
                .value_parser(PossibleValuesParser::new(["yes", "no"]))
                .hide_possible_values(false);
        }
        _ if !argument.get_possible_values().is_empty() => return argument,
        "DIR" => ValueHint::DirPath,
        "[-]FILE" => ValueHint::FilePath,
        "CMD" => ValueHint::CommandString,
        "UNIT" => PLACEHOLDER.0,
        _ if argument.is_positional() => PLACEHOLDER.0,
        "" => return argument,
        _ => ValueHint::Other,
    };
    argument.value_hint(hint)
}
