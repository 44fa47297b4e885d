//! The `[quota]` of the file: what may be transferred in a period.

use std::path::PathBuf;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::Deserialize;

use super::ConfigError;

/// Below, single trains matter to the accuracy.
const MAX_BYTES_MIN: u64 = 10_000_000;

/// TOML has no larger integers for the file that keeps account.
const MAX_BYTES_MAX: u64 = 1_000_000_000_000_000_000;

/// The name of the file in systemd's folder.
const FILE_NAME: &str = "quota.toml";

/// The `[quota]` of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaConfig {
    /// How much, if there is a quota.
    pub max: QuotaMax,
    /// How long a period is.
    pub period: QuotaPeriod,
    /// The day on which a month begins, UTC.
    pub start_day: u8,
    /// What counts.
    pub counts: Counts,
    /// Whether newcomers are turned away while more was used than an even pace allows.
    pub pacing: bool,
    /// Where account is kept.
    pub file: QuotaFile,
}

/// Bytes of IP, or no end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct QuotaMax(pub Option<u64>);

/// How long a period is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuotaPeriod {
    /// From the day of the month on which it starts to that of the next.
    #[default]
    Month,
    /// A day, UTC.
    Day,
}

/// What counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// What is sent.
    #[default]
    Tx,
    /// What is received.
    Rx,
    /// Either.
    Both,
}

/// Where account is kept: a file, or none named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct QuotaFile(pub Option<PathBuf>);

impl Default for QuotaConfig {
    fn default() -> QuotaConfig {
        QuotaConfig {
            max: QuotaMax::default(),
            period: QuotaPeriod::default(),
            start_day: 1,
            counts: Counts::default(),
            pacing: false,
            file: QuotaFile::default(),
        }
    }
}

impl QuotaConfig {
    /// Its range, as those of the other keys.
    pub(super) fn start_day_range(&self) -> (&'static str, u64, u64, u64) {
        ("quota.start_day", u64::from(self.start_day), 1, 28)
    }

    /// Names the file in systemd's folder where account is to be kept and no file is named.
    ///
    /// # Errors
    /// When there is no such folder either.
    pub(crate) fn find_file(&mut self) -> Result<(), ConfigError> {
        if self.max.0.is_some() && self.file.0.is_none() {
            // Of several folders (systemd.exec(5)), the first is as good as any.
            let folders = std::env::var_os("STATE_DIRECTORY").ok_or(ConfigError::NoQuotaFile)?;
            let folder = std::env::split_paths(&folders).next().ok_or(ConfigError::NoQuotaFile)?;
            self.file = QuotaFile(Some(folder.join(FILE_NAME)));
        }
        Ok(())
    }
}

impl FromStr for QuotaMax {
    type Err = String;

    fn from_str(text: &str) -> Result<QuotaMax, String> {
        if text == "none" {
            return Ok(QuotaMax(None));
        }
        let wrong = |_| format!("max: {text:?} is neither \"none\" nor an amount as \"2 TB\"");
        let bytes = text.parse::<ByteSize>().map_err(wrong)?.as_u64();
        if !(MAX_BYTES_MIN..=MAX_BYTES_MAX).contains(&bytes) {
            return Err(format!("max: {text:?} are {bytes} bytes: must be 10 MB to 1 EB"));
        }
        Ok(QuotaMax(Some(bytes)))
    }
}

impl TryFrom<String> for QuotaMax {
    type Error = String;

    fn try_from(text: String) -> Result<QuotaMax, String> {
        text.parse()
    }
}

impl From<String> for QuotaFile {
    fn from(text: String) -> QuotaFile {
        QuotaFile((text != "auto").then(|| PathBuf::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn amounts_are_decimal_and_in_range() {
        let max = |text: &str| text.parse::<QuotaMax>().map(|max| max.0);
        assert_eq!(max("none"), Ok(None));
        assert_eq!(max("2 TB"), Ok(Some(2_000_000_000_000)));
        assert_eq!(max("2TiB"), Ok(Some(2 << 40)));
        assert_eq!(max("1.5 GB"), Ok(Some(1_500_000_000)));
        assert_eq!(max("1 EB"), Ok(Some(1_000_000_000_000_000_000)));
        for (wrong, why) in
            [("2 XB", "2 TB"), ("", "2 TB"), ("-1 TB", "2 TB"), ("9 MB", "10 MB"), ("2 EB", "1 EB")]
        {
            assert!(max(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }

    #[test]
    fn wrong_keys_are_told_with_their_line() {
        let error = |text: &str| Config::parse(text, "test.toml").unwrap_err().to_string();
        let day = error("[quota]\nstart_day = 29");
        assert!(day.starts_with("test.toml:2: quota.start_day = 29: must be 1 to 28"), "{day}");
        let max = error("[quota]\nmax = \"2 bananas\"");
        assert!(max.contains("line 2") && max.contains("2 bananas"), "{max}");
        let counts = error("[quota]\ncounts = \"up\"");
        assert!(counts.contains("line 2") && counts.contains("`both`"), "{counts}");
    }
}
