//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

use figment::error::Kind;

use super::hint;

/// Everything that is wrong, at once: nobody likes to start a server once per mistake.
#[derive(Debug, Default)]
pub struct ConfigError {
    complaints: Vec<Complaint>,
}

#[derive(Debug)]
struct Complaint {
    /// The key as written below `[global]`, or the file, if that is what is wrong.
    key: String,
    problem: String,
    way_out: String,
}

impl ConfigError {
    pub(crate) fn one(key: impl Into<String>, problem: impl Into<String>, way_out: impl Into<String>) -> Self {
        let mut error = Self::default();
        error.add(key, problem, way_out);
        error
    }

    pub(super) fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, way_out: impl Into<String>) {
        self.complaints.push(Complaint { key: key.into(), problem: problem.into(), way_out: way_out.into() });
    }

    /// `Ok` if nothing was complained about.
    pub(super) fn into_result(self) -> Result<(), Self> {
        if self.complaints.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Complaint { key, problem, way_out }) in self.complaints.iter().enumerate() {
            let separator = if place == 0 { "" } else { "\n" };
            write!(f, "{separator}`{key}` {problem}: {way_out}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<figment::Error> for ConfigError {
    fn from(errors: figment::Error) -> Self {
        let mut all = Self::default();
        for error in errors {
            let place = place(&error);
            let section = error.path.join(".");
            match &error.kind {
                Kind::UnknownField(name, known) => {
                    let key = join(&section, name);
                    let way_out = hint::for_unknown(&key, name, known);
                    all.add(key, format!("{place} is not a key of Chappe"), way_out);
                }
                Kind::MissingField(name) => {
                    let key = join(&section, name);
                    let way_out = format!("add it to conduit.toml, or set {}", environment_name(&key));
                    all.add(key, "is missing", way_out);
                }
                kind => all.add(
                    if section.is_empty() { "conduit.toml".to_owned() } else { section },
                    format!("{place} cannot be understood"),
                    kind.to_string(),
                ),
            }
        }
        all
    }
}

/// Where a value stood: in which file, in the environment, or on the command line.
fn place(error: &figment::Error) -> String {
    let Some(metadata) = &error.metadata else { return "in the configuration".to_owned() };
    match &metadata.source {
        Some(figment::Source::File(path)) => format!("in {}", path.display()),
        _ => metadata.name.to_string(), // a `Setting` names itself
    }
}

fn join(section: &str, name: &str) -> String {
    // figment's path already ends in the name for some errors and not for others.
    match section {
        "" => name.to_owned(),
        _ if section == name || section.ends_with(&format!(".{name}")) => section.to_owned(),
        _ => format!("{section}.{name}"),
    }
}

/// The environment variable that sets `key`: `CHAPPE_WELL_KNOWN__CLIENT` for `well_known.client`.
fn environment_name(key: &str) -> String {
    format!("CHAPPE_{}", key.replace('.', "__").to_uppercase())
}
