//! The settings as flags: one for each row of the table.

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Flags, KEYS, Key, SWITCH};

/// The settings that were given as flags, as they were written. They are read and checked with all others by
/// [`Settings::resolve`](crate::config::Settings::resolve).
#[derive(Debug, Default)]
pub(super) struct SettingFlags(pub Flags);

fn arg(key: &'static Key) -> Arg {
    let default = key.default.map(|text| format!(" [default: {text}]"));
    let help = format!(
        "{}{} [env: {}]",
        key.help,
        default.unwrap_or_default(),
        key.env.join(", ")
    );
    let arg = Arg::new(key.path)
        .long(key.flag)
        .value_name(key.value)
        .help(StyledStr::from(help))
        .help_heading("Settings");
    match key.value {
        SWITCH => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ => arg,
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(KEYS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in KEYS {
            let value = matches
                .try_get_one::<String>(key.path)
                .map_err(|error| clap::Error::raw(ErrorKind::UnknownArgument, error))?;
            if let Some(value) = value {
                self.0.insert(key.path, value.clone());
            }
        }
        Ok(())
    }
}
