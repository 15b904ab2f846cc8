//! The log: events on stderr, as text or JSON.
//!
//! Tokens are never logged: they live in types that do not print. Of the libraries beneath only warnings pass, unless the filter says otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFilter, LogFormat};

/// Starts the log for the whole process. Only the first call counts.
///
/// Text has colours on a terminal, unless `NO_COLOR` is set.
pub fn init(filter: &LogFilter, format: LogFormat) {
    init_to(filter, format, std::io::stderr);
}

/// The same, with another place for its lines, which stands for stderr.
pub fn init_to<W>(filter: &LogFilter, format: LogFormat, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let events = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter.directives()))
        // Nobody may read the log any more; telling that on stderr would panic.
        .log_internal_errors(false)
        .with_writer(writer);
    let started = match format {
        LogFormat::Text => {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colours = std::io::stderr().is_terminal() && !plain;
            events.with_ansi(colours).try_init()
        }
        LogFormat::Json => events.json().try_init(),
    };
    // A second call, as in tests: the log is there already.
    drop(started);
}
