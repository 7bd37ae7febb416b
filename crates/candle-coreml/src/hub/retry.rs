//! Retry policy of failed requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Number of attempts and delays between them: delays double from `first` up to `longest`; `Retry-After` of the server
/// takes precedence, also up to `longest`.
#[derive(Clone)]
pub struct RetryPolicy {
    /// Consecutive attempts without progress before giving up; at least 1.
    pub attempts: u32,
    /// First delay.
    pub first: Duration,
    /// Longest delay.
    pub longest: Duration,
    /// Sleep function; replaced in tests.
    pub sleep: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Default for RetryPolicy {
    /// Five attempts; delays of 0.5, 1, 2, 4 s; at most a minute if the server requests it.
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            sleep: Arc::new(std::thread::sleep),
        }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, first, longest, .. } = self;
        write!(f, "RetryPolicy {{ attempts: {attempts}, first: {first:?}, longest: {longest:?} }}")
    }
}

impl RetryPolicy {
    /// Delay after the given number of consecutive failures (1, 2, …).
    pub fn delay(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = 2u32.checked_pow(failures.saturating_sub(1)).and_then(|n| self.first.checked_mul(n));
        asked.or(doubled).unwrap_or(self.longest).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_the_longest() {
        let policy = RetryPolicy { longest: Duration::from_secs(3), ..RetryPolicy::default() };
        let pauses: Vec<u128> = [1, 2, 3, 4, 40].map(|n| policy.delay(n, None).as_millis()).to_vec();
        assert_eq!(pauses, [500, 1000, 2000, 3000, 3000]);
        assert_eq!(policy.delay(1, Some(Duration::from_secs(2))), Duration::from_secs(2));
        assert_eq!(policy.delay(1, Some(Duration::from_secs(1 << 40))), Duration::from_secs(3));
        assert_eq!(policy.delay(u32::MAX, None), Duration::from_secs(3));
    }
}
