//! `authentication`: SPF, DKIM, DMARC, ARC and iprev of what comes in.

use std::rc::Rc;

use config::Problem;
use job::inspect::Steps;

use crate::filter::Filter;
use crate::kinds::{Setup, not_yet};
use crate::settings::FilterSetting;

mod settings;

pub use settings::AuthenticationSetting;

/// Checks the setting at `key`.
pub(crate) fn check(setting: &FilterSetting, key: &str) -> Result<(), Problem> {
    let _ = setting;
    Err(not_yet(key))
}

/// The early steps it wants to hear of as they happen.
pub(crate) fn steps(setting: &FilterSetting) -> Steps {
    let _ = setting;
    Steps::NONE
}

/// Makes it ready.
pub(crate) fn make(setting: &FilterSetting, setup: &Setup) -> Result<Rc<dyn Filter>, String> {
    let _ = (setting, setup);
    Err("not in this version".to_owned())
}
