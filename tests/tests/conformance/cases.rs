//! What both proxies do the same, by what a rule or a proxy does.

use crate::case::Case;

mod access;
mod hosts;
mod instances;
mod limits;
mod matching;
mod pages;
mod rules;
mod tokens;
mod transport;

pub(crate) const CASES: &[&[Case]] = &[
    matching::CASES,
    instances::CASES,
    rules::CASES,
    hosts::CASES,
    limits::CASES,
    pages::CASES,
    tokens::CASES,
    access::CASES,
    transport::CASES,
];
