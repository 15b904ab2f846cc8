//! Settings: flags, environment, file and defaults, in that order of precedence.
