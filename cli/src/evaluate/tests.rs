//! Both evaluators on real sources.
