//! `strftime_now(format)`: date and time now, as Python's `datetime.strftime` writes them in the C locale. The time zone is
//! UTC.

use std::fmt::Write;
use web_time::{SystemTime, UNIX_EPOCH};

use super::{Result, unsupported};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A time in UTC, in the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// 0: the 1st of January.
    day_of_year: i64,
    /// 0: Sunday.
    weekday: usize,
    /// Seconds of the day.
    seconds: i64,
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl Time {
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(since.as_secs())
    }

    /// The time so many seconds after 1970 began.
    fn at(seconds: u64) -> Self {
        // More would be beyond the year 9999, which Python has not.
        let seconds = seconds.min(253_402_300_799) as i64;
        let (mut rest, weekday) = (seconds / 86_400, ((seconds / 86_400 + 4) % 7) as usize);
        let mut year = 1970;
        loop {
            let length = if is_leap(year) { 366 } else { 365 };
            if rest < length {
                break;
            }
            rest -= length;
            year += 1;
        }
        let day_of_year = rest;
        let february = if is_leap(year) { 29 } else { 28 };
        let mut month = 0;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if rest < length {
                break;
            }
            rest -= length;
            month += 1;
        }
        Self { year, month: month + 1, day: rest + 1, day_of_year, weekday, seconds: seconds % 86_400 }
    }

    /// Writes the time; directives that are not known are refused.
    pub(super) fn format(self, format: &str) -> Result<String> {
        let (hour, minute, second) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let twelve = (hour + 11) % 12 + 1;
        let (day, month) = (DAYS[self.weekday], MONTHS[self.month - 1]);
        let mut text = String::with_capacity(format.len() + 16);
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = rest.next();
            // `%-d`: without leading zeros.
            let bare = directive == Some('-');
            if bare {
                directive = rest.next();
            }
            let number = |text: &mut String, value: i64, width: usize| {
                let width = if bare { 0 } else { width };
                write!(text, "{value:0width$}")
            };
            let written = match directive {
                Some('%') if !bare => write!(text, "%"),
                Some('Y') => number(&mut text, self.year, 4),
                Some('y') => number(&mut text, self.year % 100, 2),
                Some('m') => number(&mut text, self.month as i64, 2),
                Some('d') => number(&mut text, self.day, 2),
                Some('e') if bare => number(&mut text, self.day, 0),
                Some('e') => write!(text, "{:2}", self.day),
                Some('j') => number(&mut text, self.day_of_year + 1, 3),
                Some('H') => number(&mut text, hour, 2),
                Some('I') => number(&mut text, twelve, 2),
                Some('M') => number(&mut text, minute, 2),
                Some('S') => number(&mut text, second, 2),
                Some('A') if !bare => write!(text, "{day}"),
                Some('a') if !bare => write!(text, "{}", &day[..3]),
                Some('B') if !bare => write!(text, "{month}"),
                Some('b' | 'h') if !bare => write!(text, "{}", &month[..3]),
                Some('p') if !bare => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
                Some('F') if !bare => write!(text, "{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('T') if !bare => write!(text, "{hour:02}:{minute:02}:{second:02}"),
                Some('R') if !bare => write!(text, "{hour:02}:{minute:02}"),
                other => {
                    let name: String = "%".chars().chain(bare.then_some('-')).chain(other).collect();
                    return unsupported("directive of a date", &name);
                }
            };
            // Writing to a string never fails.
            let _ = written;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Time;

    /// Expected: Python's `datetime.fromtimestamp(n, timezone.utc).strftime(…)`.
    #[test]
    fn times_are_written_as_python_writes_them() {
        for (seconds, format, wanted) in [
            (0, "%Y-%m-%d %H:%M:%S %A %j", "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "%d %b %Y, %a", "29 Feb 2000, Tue"),
            (1_735_689_599, "%F %T %I:%M %p", "2024-12-31 23:59:59 11:59 PM"),
            (1_709_251_200, "%B %-d, %y %e %-I%%", "March 1, 24  1 12%"),
            (u64::MAX, "%Y-%m-%d", "9999-12-31"),
            (0, "", ""),
        ] {
            assert_eq!(Time::at(seconds).format(format).expect("known"), wanted, "{format}");
        }
        for format in ["%Q", "%", "%-", "%-A", "%s"] {
            assert!(Time::at(0).format(format).is_err(), "{format}");
        }
    }
}
