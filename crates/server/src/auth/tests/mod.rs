//! The ways in, all of them, through [`Access::identify`].

mod algorithms;
mod api_keys;
mod configuration;
mod remote;
mod secrecy;
mod tokens;
mod ways;

use std::net::SocketAddr;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use http::request::Parts;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};
use tidings_hub::Timestamp;

use super::*;

/// The time in all tests, and the same in seconds.
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const SECONDS: u64 = NOW.0 / 1000;

const SECRET: &str = "a secret of the tests, of 40 characters.";

/// Somebody who signs tokens, whatever is in them.
#[derive(Clone)]
struct Issuer {
    algorithm: Algorithm,
    key: EncodingKey,
    /// PEM; none for a shared secret.
    public: Option<String>,
}

impl Issuer {
    fn shared(algorithm: Algorithm) -> Issuer {
        Issuer { algorithm, key: EncodingKey::from_secret(SECRET.as_bytes()), public: None }
    }

    /// An issuer of RS… or PS…; making a key takes a while, so that there is one.
    fn rsa(algorithm: Algorithm) -> Issuer {
        static KEY: OnceLock<(EncodingKey, String)> = OnceLock::new();
        let (key, public) = KEY.get_or_init(|| {
            let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
            let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
            let private = pem("PRIVATE KEY", private.as_ref());
            (EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(), pem("PUBLIC KEY", public.as_ref()))
        });
        Issuer { algorithm, key: key.clone(), public: Some(public.clone()) }
    }

    fn elliptic(algorithm: Algorithm) -> Issuer {
        let signing: &EcdsaSigningAlgorithm = match algorithm {
            Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
        };
        let random = aws_lc_rs::rand::SystemRandom::new();
        let private = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, private.as_ref()).unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let public = Some(pem("PUBLIC KEY", public.as_ref()));
        Issuer { algorithm, key: EncodingKey::from_ec_der(private.as_ref()), public }
    }

    fn edwards() -> Issuer {
        let private = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        // The library wants the first version of PKCS #8 here.
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public = Some(pem("PUBLIC KEY", public.as_ref()));
        Issuer { algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(private.as_ref()), public }
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm, "typ": "JWT" }), &claims.to_string())
    }

    /// A token with any header and any text for claims, well signed.
    fn token_with(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims));
        let signature = crypto::sign(signed.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{signed}.{signature}")
    }

    /// The public key for a set.
    fn jwk(&self, kid: &str) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The key as it is configured. Files are written into the directory.
    fn config(&self, dir: &tempfile::TempDir) -> KeyConfig {
        let source = match &self.public {
            None => KeySource::Secret(Secret::new(SECRET)),
            Some(public) => {
                let path = dir.path().join(format!("{:?}.pem", self.algorithm));
                std::fs::write(&path, public).unwrap();
                KeySource::File(path)
            }
        };
        KeyConfig { algorithm: Some(self.algorithm), source, ..KeyConfig::secret(Secret::new("")) }
    }
}

fn base64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A token of the shared secret that is good for an hour, with these claims besides.
fn good_token(more: Value) -> String {
    let mut claims = json!({ "sub": "7", "exp": SECONDS + 3600 });
    claims.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    Issuer::shared(Algorithm::HS256).token(&claims)
}

/// A configuration with the shared secret.
fn config() -> AccessConfig {
    AccessConfig { keys: vec![KeyConfig::secret(Secret::new(SECRET))], ..AccessConfig::default() }
}

fn access(config: AccessConfig) -> Access {
    Access::new(config).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn templates(subscribe: &[&str], publish: &[&str]) -> GrantTemplates {
    let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    GrantTemplates { subscribe: all(subscribe), publish: all(publish), presence: Vec::new() }
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri).header("host", "localhost:4600");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 5000))
}

async fn identify_at(access: &Access, token: &str, now: Timestamp) -> Result<Identity, Problem> {
    let bearer = format!("Bearer {token}");
    access.identify(&request("/events", &[("authorization", &bearer)]), peer(), now).await
}

async fn identify(access: &Access, token: &str) -> Result<Identity, Problem> {
    identify_at(access, token, NOW).await
}

/// The status, the kind and the challenge of a refusal.
fn refusal(found: Result<Identity, Problem>) -> (u16, &'static str, Option<String>) {
    let problem = found.expect_err("it is let in");
    let challenge = problem.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    (problem.status().as_u16(), problem.kind(), challenge)
}

fn invalid() -> (u16, &'static str, Option<String>) {
    (401, "invalid_token", Some("Bearer error=\"invalid_token\"".to_owned()))
}

fn may_subscribe(identity: &Identity, text: &str) -> bool {
    identity.may_subscribe(&pattern(text).unwrap())
}

fn may_publish(identity: &Identity, name: &str) -> bool {
    identity.may_publish(&tidings_wire::Channel::stored(name).unwrap())
}
