//! `envoy.extensions.filters.http.decompressor.v3.Decompressor` of a listener.

use std::mem::take;

use envoy_types::pb::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::Decompressor as PbDecompressor;
use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::decompressor::CommonDirectionConfig;
use envoy_types::pb::google::protobuf::Any;

use super::compressor::is_on;
use crate::decode::fields::{At, Reason, any, done, required};
use crate::filter::{Decompressor, Unzipping};

/// Envoy's.
const RATIO_MAX_DEFAULT: u32 = 100;

/// None where it does nothing.
pub(super) fn of_listener(config: &Any) -> Result<Option<Decompressor>, Reason> {
    let mut pb: PbDecompressor = any(config)?;
    let mut library = required(pb.decompressor_library.take()).at("decompressor_library")?;
    take(&mut library.name);
    let gzip = required(library.typed_config.take()).at("decompressor_library.typed_config")?;
    done(&library).at("decompressor_library")?;
    let ratio_max = ratio_max(&gzip).at("decompressor_library.typed_config")?;
    let mut of_requests = pb.request_direction_config.take().unwrap_or_default();
    let mut of_answers = pb.response_direction_config.take().unwrap_or_default();
    done(&pb)?;
    let says_accepted = of_requests.advertise_accept_encoding.take();
    let requests =
        direction(of_requests.common_config.take()).at("request_direction_config.common_config")?;
    done(&of_requests).at("request_direction_config")?;
    let answers = direction(of_answers.common_config.take()).at("response_direction_config.common_config")?;
    done(&of_answers).at("response_direction_config")?;
    let decompressor = Decompressor {
        requests,
        answers,
        says_accepted: says_accepted.is_none_or(|says| says.value),
        ratio_max,
    };
    Ok((requests.is_some() || answers.is_some()).then_some(decompressor))
}

fn ratio_max(config: &Any) -> Result<u32, Reason> {
    let mut pb: Gzip = any(config)?;
    // How zlib would keep its memory; what is done here has its own.
    pb.window_bits.take();
    pb.chunk_size.take();
    let ratio_max = pb
        .max_inflate_ratio
        .take()
        .map_or(RATIO_MAX_DEFAULT, |ratio| ratio.value);
    done(&pb)?;
    if ratio_max == 0 {
        return Err("max_inflate_ratio: must be more than 0".to_owned());
    }
    Ok(ratio_max)
}

fn direction(config: Option<CommonDirectionConfig>) -> Result<Option<Unzipping>, Reason> {
    let mut pb = config.unwrap_or_default();
    let is_on = match pb.enabled.take() {
        None => true,
        Some(flag) => is_on(flag).at("enabled")?,
    };
    let which = if take(&mut pb.ignore_no_transform_header) {
        Unzipping::All
    } else {
        Unzipping::Allowed
    };
    done(&pb)?;
    Ok(is_on.then_some(which))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{RuntimeFeatureFlag, TypedExtensionConfig};
    use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::decompressor::{
        RequestDirectionConfig, ResponseDirectionConfig,
    };
    use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
    use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
    use envoy_types::util::pack_any;

    use super::*;

    #[test]
    fn what_a_listener_says_is_taken_or_refused() {
        let by = |library: Any| PbDecompressor {
            decompressor_library: Some(TypedExtensionConfig {
                name: "any".to_owned(),
                typed_config: Some(library),
            }),
            ..PbDecompressor::default()
        };
        let gzip = |ratio: Option<u32>| {
            by(pack_any(Gzip {
                max_inflate_ratio: ratio.map(|value| UInt32Value { value }),
                ..Gzip::default()
            }))
        };
        let common = |is_on: bool, ignores: bool| {
            Some(CommonDirectionConfig {
                enabled: Some(RuntimeFeatureFlag {
                    default_value: Some(BoolValue { value: is_on }),
                    ..RuntimeFeatureFlag::default()
                }),
                ignore_no_transform_header: ignores,
            })
        };
        let both = |requests: (bool, bool), answers: (bool, bool)| PbDecompressor {
            request_direction_config: Some(RequestDirectionConfig {
                common_config: common(requests.0, requests.1),
                advertise_accept_encoding: Some(BoolValue { value: false }),
            }),
            response_direction_config: Some(ResponseDirectionConfig {
                common_config: common(answers.0, answers.1),
            }),
            ..gzip(Some(7))
        };
        let plain = Decompressor {
            requests: Some(Unzipping::Allowed),
            answers: Some(Unzipping::Allowed),
            says_accepted: true,
            ratio_max: 100,
        };
        let other = |requests, answers| Decompressor {
            requests,
            answers,
            says_accepted: false,
            ratio_max: 7,
        };
        let cases = [
            (gzip(None), Ok(Some(plain))),
            (
                both((true, true), (false, false)),
                Ok(Some(other(Some(Unzipping::All), None))),
            ),
            (
                both((false, true), (true, false)),
                Ok(Some(other(None, Some(Unzipping::Allowed)))),
            ),
            (both((false, false), (false, false)), Ok(None)),
            (
                gzip(Some(0)),
                Err("decompressor_library.typed_config.max_inflate_ratio: must be more than 0"),
            ),
            (
                PbDecompressor::default(),
                Err("decompressor_library: is required"),
            ),
            (
                by(pack_any(Router::default())),
                Err(
                    "decompressor_library.typed_config: type.googleapis.com/envoy.extensions.filters.http.router.v3.Router is not supported here, expected type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip",
                ),
            ),
        ];
        for (pb, expected) in cases {
            let got = of_listener(&pack_any(pb.clone()));
            assert_eq!(got, expected.map_err(str::to_owned), "{pb:?}");
        }
    }
}
