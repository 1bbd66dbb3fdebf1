//! Parameters of a request: names and values without any escapes, since ids and numbers need none.

use std::str::FromStr;

use anabranch_format::Lsn;
use anabranch_store::Anchor;

use crate::error::ApiError;

/// The parameters of a request; those with names that nobody knows are passed over.
#[derive(Debug)]
pub(crate) struct Params<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Params<'a> {
    pub(crate) fn parse(query: &'a str) -> Result<Self, ApiError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.=&".contains(&b);
        if !query.bytes().all(plain) {
            return Err(ApiError::bad_request("a parameter has characters that none needs"));
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Ok(Params(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect()))
    }

    /// The value of `name`, if it is given.
    pub(crate) fn get<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some((_, text)) = self.0.iter().find(|(found, _)| *found == name) else {
            return Ok(None);
        };
        let bad = |e: T::Err| ApiError::bad_request(format!("parameter '{name}': {e}"));
        text.parse().map(Some).map_err(bad)
    }

    /// The value of `name`, which must be given.
    pub(crate) fn require<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<T, ApiError> {
        let missing = || ApiError::bad_request(format!("the parameter '{name}' is missing"));
        self.get(name)?.ok_or_else(missing)
    }

    /// Refuses names that are not among `known`: for requests of people, who mistype them.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(ApiError::bad_request(format!(
                "no parameter '{name}' is known here, only {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// The segment whose end the client knows: `first`, `after` (its last position) and `push`.
    pub(crate) fn anchor(&self) -> Result<Option<Anchor>, ApiError> {
        let (first, last) = (self.get::<Lsn>("first")?, self.get::<Lsn>("after")?);
        let Some((first, last)) = first.zip(last) else { return Ok(None) };
        Ok(Some(Anchor { first, last, push: self.get("push")? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_name() {
        let params = Params::parse("after=7&first=0000000000000003&push=ab&&x").unwrap();
        let anchor = params.anchor().unwrap().unwrap();
        assert_eq!((anchor.first.get(), anchor.last.get()), (3, 7));
        assert_eq!(anchor.push.unwrap().as_str(), "ab");
        assert_eq!(params.get::<u64>("count").unwrap(), None);
        assert_eq!(params.require::<u64>("count").unwrap_err().status, 400);
        assert_eq!(params.require::<u64>("push").unwrap_err().status, 400);
        assert!(Params::parse("").unwrap().anchor().unwrap().is_none());
        assert!(Params::parse("after=7").unwrap().only(&["after"]).is_ok());
        assert_eq!(Params::parse("aftre=7").unwrap().only(&["after"]).unwrap_err().status, 400);
        assert_eq!(Params::parse("a=%41").unwrap_err().status, 400);
    }
}
