//! TLS provider and trusted certificates for `https`.
//!
//! The provider is Graviola, which needs no C compiler; with the feature `hub-ring`, ring. Trust roots are the system's
//! certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them), or Mozilla's if there are none.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// TLS provider; `None` if none of this build supports the CPU.
fn provider() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "hub-ring")]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(not(feature = "hub-ring"), target_arch = "x86_64"))]
    {
        // CPU features required by Graviola, which panics without them.
        let able = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("adx")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("pclmulqdq");
        return able.then(|| Arc::new(rustls_graviola::default_provider()));
    }
    #[cfg(all(not(feature = "hub-ring"), target_arch = "aarch64"))]
    {
        use std::arch::is_aarch64_feature_detected;
        let able = is_aarch64_feature_detected!("aes")
            && is_aarch64_feature_detected!("sha2")
            && is_aarch64_feature_detected!("pmull")
            && is_aarch64_feature_detected!("neon");
        return able.then(|| Arc::new(rustls_graviola::default_provider()));
    }
    #[allow(unreachable_code)]
    None
}

/// TLS configuration for `https`; an error if `https` is requested but not supported here.
pub(crate) fn config(wanted: bool) -> Result<TlsConfig, &'static str> {
    let mut config = TlsConfig::builder().provider(TlsProvider::Rustls);
    match provider() {
        Some(provider) => config = config.unversioned_rustls_crypto_provider(provider),
        None if wanted => {
            return Err(
                "https is not possible on this processor with the default TLS; build with the feature `hub-ring`",
            );
        }
        None => {}
    }
    if wanted {
        config = config.root_certs(roots());
    }
    Ok(config.build())
}

/// The system's certificates, else Mozilla's.
fn roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    for e in &found.errors {
        tracing::debug!("a certificate of the system: {e}");
    }
    if found.certs.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates: Vec<_> = found.certs.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
    RootCerts::new_with_certs(&certificates)
}

/// Returns true if a request failed on the server's certificate; retrying does not help.
pub(crate) fn is_distrust(error: &ureq::Error) -> bool {
    let inner = match error {
        ureq::Error::Rustls(e) => Some(e),
        ureq::Error::Io(e) => e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_not_worth_repeating() {
        let distrust = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_distrust(&ureq::Error::Io(std::io::Error::other(distrust()))));
        assert!(is_distrust(&ureq::Error::Rustls(distrust())));
        assert!(!is_distrust(&ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into())));
        assert!(!is_distrust(&ureq::Error::HostNotFound));
    }
}
