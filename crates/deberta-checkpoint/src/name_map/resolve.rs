//! Every parameter of a schema with its source, and what is left on either side.

use std::collections::HashMap;
use std::fmt;

use deberta_model::{DebertaV2Config, Head, Parameter, Presence, Role, schema};

use super::canonical::{Target, family_of, is_float, targets};
use super::fold::some;
use super::rules::{Family, NOT_NEEDED, Transform, other_lm_head};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::tensor::TensorInfo;
use crate::view::{Dim, View};

/// A parameter and where it comes from.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The parameter.
    pub parameter: Parameter,
    /// The tensor of the checkpoint it is made of; `None` where it is zero because the checkpoint has none.
    pub source: Option<String>,
    /// How its elements are rearranged.
    pub transform: Transform,
    /// The parameter as a tensor of the checkpoint: its name is the parameter's, its elements are in the parameter's order.
    /// [`Checkpoint::read`] and [`Checkpoint::array`] take it.
    pub tensor: TensorInfo,
}

/// Why a tensor of a checkpoint is no parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The schema has no parameter that it could be.
    Unknown,
    /// It is known, and nothing needs it.
    NotNeeded(&'static str),
    /// It is equal to the bit to this tensor, which became the parameter.
    Duplicate(String),
    /// It would be a parameter that a model can do without, and has another shape than the configuration says.
    WrongShape {
        /// The parameter.
        parameter: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no parameter of the model has this name"),
            Self::NotNeeded(why) => f.write_str(why),
            Self::Duplicate(of) => write!(f, "equal to the bit to {of}"),
            Self::WrongShape { parameter, expected } => {
                write!(f, "{parameter} should have shape {expected:?}, and nothing needs it")
            }
        }
    }
}

/// A tensor of a checkpoint that became no parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its name in the checkpoint.
    pub name: String,
    /// Why.
    pub reason: Reason,
}

/// A parameter that a checkpoint does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unmet {
    /// No tensor is it.
    Missing {
        /// The parameter.
        parameter: String,
    },
    /// One is, and has another shape.
    WrongShape {
        /// The parameter.
        parameter: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The tensor.
        source: String,
        /// Its shape, after the rearrangement that its family asks for.
        found: Vec<usize>,
    },
    /// One is, and holds no floating-point numbers.
    WrongDtype {
        /// The parameter.
        parameter: String,
        /// The tensor.
        source: String,
        /// Its type.
        found: safetensors::Dtype,
    },
    /// Several tensors that are not equal claim to be it.
    Ambiguous {
        /// The parameter.
        parameter: String,
        /// The tensors.
        sources: Vec<String>,
    },
}

impl Unmet {
    /// The parameter.
    pub fn parameter(&self) -> &str {
        match self {
            Self::Missing { parameter }
            | Self::WrongShape { parameter, .. }
            | Self::WrongDtype { parameter, .. }
            | Self::Ambiguous { parameter, .. } => parameter,
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { parameter } => write!(f, "missing: {parameter}"),
            Self::WrongShape { parameter, expected, source, found } => {
                write!(f, "wrong shape: {parameter} should be {expected:?}, {source} is {found:?}")
            }
            Self::WrongDtype { parameter, source, found } => {
                write!(f, "wrong type: {parameter} needs floating-point numbers, {source} holds {found}")
            }
            Self::Ambiguous { parameter, sources } => {
                write!(f, "ambiguous: {parameter} could be any of {}, which differ", sources.join(", "))
            }
        }
    }
}

/// How many names or problems of a kind a sentence lists; a layer has twenty parameters.
const SHOWN: usize = 24;

/// Everything that keeps a checkpoint from serving a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingProblems {
    /// The parameters that are not served.
    pub unmet: Vec<Unmet>,
    /// The tensors that became no parameter: misspelled names are found here.
    pub leftover: Vec<Leftover>,
}

impl fmt::Display for MappingProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.unmet.iter().filter(|u| matches!(u, Unmet::Missing { .. }));
        let missing = some(missing.map(Unmet::parameter), SHOWN);
        // Everything else names two things, and is said as it is; a wrong configuration makes all of it wrong.
        let others: Vec<_> = self.unmet.iter().filter(|u| !matches!(u, Unmet::Missing { .. })).collect();
        let shown = others.iter().take(SHOWN).map(ToString::to_string);
        let more = others.len().checked_sub(SHOWN).filter(|n| *n > 0).map(|n| format!("and {n} more"));
        let missing = (!missing.is_empty()).then(|| format!("missing: {missing}"));
        f.write_str(&missing.into_iter().chain(shown).chain(more).collect::<Vec<_>>().join("; "))?;
        let unknown = self.leftover.iter().filter(|l| l.reason == Reason::Unknown).map(|l| l.name.as_str());
        let unknown = some(unknown, SHOWN);
        if !unknown.is_empty() {
            write!(f, "; left over: {unknown}")?;
        }
        Ok(())
    }
}

/// What a checkpoint gives a model.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Whose names it uses.
    pub family: Family,
    /// The parameters, in the order of the schema. Optional and tied ones that the checkpoint does not hold are absent.
    pub mapped: Vec<Mapping>,
    /// The tensors that became no parameter.
    pub leftover: Vec<Leftover>,
}

impl Resolved {
    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Mapping> {
        self.mapped.iter().find(|m| m.parameter.name == name)
    }
}

/// Finds the source of every parameter of `config` under `head`.
///
/// # Errors
/// [`Error::Mapping`] with everything that is missing, wrongly shaped or ambiguous, all at once.
pub fn resolve(checkpoint: &Checkpoint, config: &DebertaV2Config, head: Head) -> Result<Resolved, Error> {
    let (resolved, unmet) = map_parameters(checkpoint, config, schema(config, head))?;
    if unmet.is_empty() {
        return Ok(resolved);
    }
    let problems = Box::new(MappingProblems { unmet, leftover: resolved.leftover });
    Err(Error::Mapping { path: checkpoint.path().to_owned(), problems })
}

/// The same for a list of parameters, with what is not served beside what is.
///
/// # Errors
/// Whatever reading a tensor finds where two must be compared.
pub fn map_parameters(
    checkpoint: &Checkpoint,
    config: &DebertaV2Config,
    parameters: Vec<Parameter>,
) -> Result<(Resolved, Vec<Unmet>), Error> {
    map_part(checkpoint, "", config, parameters)
}

/// The same for one of several models in a checkpoint: that whose names begin with `part`, such as `discriminator.`. The
/// tensors of the others are left over.
///
/// # Errors
/// Whatever reading a tensor finds where two must be compared.
pub fn map_part(
    checkpoint: &Checkpoint,
    part: &str,
    config: &DebertaV2Config,
    parameters: Vec<Parameter>,
) -> Result<(Resolved, Vec<Unmet>), Error> {
    let ties: Vec<(String, String)> = parameters
        .iter()
        .filter_map(|p| match &p.presence {
            Presence::TiedTo(partner) => Some((p.name.clone(), partner.clone())),
            _ => None,
        })
        .collect();
    let mut resolver = Resolver::new(checkpoint, part, config, &parameters);
    resolver.collect();
    for parameter in parameters {
        resolver.serve(parameter)?;
    }
    let Resolver { family, mut mapped, leftover, mut unmet, .. } = resolver;
    settle_ties(&ties, &mut mapped, &mut unmet);
    Ok((Resolved { family, mapped, leftover }, unmet))
}

/// A tensor that claims to be a parameter.
#[derive(Clone)]
struct Claim<'c> {
    tensor: &'c TensorInfo,
    transform: Transform,
}

struct Resolver<'c> {
    checkpoint: &'c Checkpoint,
    part: &'c str,
    heads: usize,
    family: Family,
    by_name: HashMap<String, Role>,
    claims: HashMap<String, Vec<Claim<'c>>>,
    mapped: Vec<Mapping>,
    leftover: Vec<Leftover>,
    unmet: Vec<Unmet>,
}

impl<'c> Resolver<'c> {
    fn new(checkpoint: &'c Checkpoint, part: &'c str, config: &DebertaV2Config, parameters: &[Parameter]) -> Self {
        Self {
            checkpoint,
            part,
            heads: config.num_attention_heads,
            family: family_of(checkpoint),
            by_name: parameters.iter().map(|p| (p.name.clone(), p.role)).collect(),
            claims: HashMap::new(),
            mapped: Vec::new(),
            leftover: Vec::new(),
            unmet: Vec::new(),
        }
    }

    /// Lets every tensor claim what it may be.
    fn collect(&mut self) {
        let links = self.checkpoint.links().keys().filter_map(|name| Some((name, self.checkpoint.get(name)?)));
        let derived = self.checkpoint.derived().iter().map(|t| (&t.name, t));
        let tensors: Vec<_> = self.checkpoint.tensors().map(|t| (&t.name, t)).chain(links).chain(derived).collect();
        for (name, tensor) in tensors {
            let mut claimed = false;
            let within = name.strip_prefix(self.part).unwrap_or_default();
            let found =
                targets(within, self.family, |n| self.by_name.contains_key(n) || self.other_lm_head(n).is_some());
            for Target { name, transform, .. } in found {
                let name = if self.by_name.contains_key(&name) { Some(name) } else { self.other_lm_head(&name) };
                if let Some(name) = name {
                    self.claims.entry(name).or_default().push(Claim { tensor, transform });
                    claimed = true;
                }
            }
            if !claimed && self.checkpoint.get(name).is_some() {
                let not_needed = NOT_NEEDED.iter().find(|(end, _)| name.ends_with(end));
                let reason = not_needed.map_or(Reason::Unknown, |(_, why)| Reason::NotNeeded(why));
                self.leftover.push(Leftover { name: name.clone(), reason });
            }
        }
    }

    /// The other name of a parameter of the language-modelling head, where the schema has that one.
    fn other_lm_head(&self, name: &str) -> Option<String> {
        other_lm_head(name).filter(|other| self.by_name.contains_key(*other)).map(str::to_owned)
    }

    fn serve(&mut self, parameter: Parameter) -> Result<(), Error> {
        let claims = self.claims.remove(&parameter.name).unwrap_or_default();
        let Some((claim, rest)) = self.choose(&parameter.name, &claims) else {
            return self.serve_zero(parameter);
        };
        let (claim, rest) = (claim.clone(), rest.into_iter().cloned().collect::<Vec<_>>());
        let source = claim.tensor.name.clone();
        let optional = parameter.presence == Presence::Optional;
        let derived = derive(claim.tensor, claim.transform, &parameter, self.heads);
        let derived = match derived {
            Ok(tensor) if !is_float(tensor.dtype) => {
                self.unmet.push(Unmet::WrongDtype { parameter: parameter.name, source, found: tensor.dtype });
                return Ok(());
            }
            Ok(tensor) => tensor,
            Err(_) if optional => {
                let reason = Reason::WrongShape { parameter: parameter.name, expected: parameter.shape };
                self.leftover.push(Leftover { name: source, reason });
                return Ok(());
            }
            Err(found) => {
                let (parameter, expected) = (parameter.name, parameter.shape);
                self.unmet.push(Unmet::WrongShape { parameter, expected, source, found });
                return Ok(());
            }
        };
        for other in rest {
            let same = derive(other.tensor, other.transform, &parameter, self.heads)
                .is_ok_and(|t| t.dtype == derived.dtype && t.storage == derived.storage && t.view == derived.view);
            if !same && !self.equal(&derived, &other, &parameter)? {
                let sources = vec![source, other.tensor.name.clone()];
                self.unmet.push(Unmet::Ambiguous { parameter: parameter.name, sources });
                return Ok(());
            }
            if other.tensor.name != source {
                let reason = Reason::Duplicate(source.clone());
                self.leftover.push(Leftover { name: other.tensor.name.clone(), reason });
            }
        }
        let transform = claim.transform;
        self.mapped.push(Mapping { parameter, source: Some(source), transform, tensor: derived });
        Ok(())
    }

    /// Of several claims the one that already has the parameter's name comes first.
    fn choose<'a>(&self, name: &str, claims: &'a [Claim<'c>]) -> Option<(&'a Claim<'c>, Vec<&'a Claim<'c>>)> {
        let best = claims.iter().position(|c| c.tensor.name == name).unwrap_or(0);
        let chosen = claims.get(best)?;
        let rest = claims.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, c)| c).collect();
        Some((chosen, rest))
    }

    fn equal(&self, derived: &TensorInfo, other: &Claim<'c>, parameter: &Parameter) -> Result<bool, Error> {
        let Ok(other) = derive(other.tensor, other.transform, parameter, self.heads) else { return Ok(false) };
        Ok(other.dtype == derived.dtype && self.checkpoint.read(&other)? == self.checkpoint.read(derived)?)
    }

    /// A parameter that nothing claims: zero where its weight came from a layer without bias, else missing.
    fn serve_zero(&mut self, parameter: Parameter) -> Result<(), Error> {
        let weight = parameter.name.strip_suffix(".bias").map(|module| format!("{module}.weight"));
        let weight = weight.and_then(|w| self.mapped.iter().find(|m| m.parameter.name == w));
        let came_without = weight.filter(|w| w.source.as_ref().is_some_and(|s| self.came_without_bias(s)));
        if let Some(weight) = came_without.filter(|_| parameter.role == Role::Bias) {
            let tensor = self.checkpoint.zeros(&parameter.name, weight.tensor.dtype, &parameter.shape);
            self.mapped.push(Mapping { parameter, source: None, transform: Transform::Zero, tensor });
        } else if parameter.presence == Presence::Required {
            // Of two tied parameters, the absence of both is the absence of the required one.
            self.unmet.push(Unmet::Missing { parameter: parameter.name });
        }
        Ok(())
    }

    fn came_without_bias(&self, source: &str) -> bool {
        let within = source.strip_prefix(self.part).unwrap_or(source);
        targets(within, self.family, |_| false).iter().any(|t| t.without_bias)
    }
}

/// A tied parameter may be absent where its partner is present, either way round.
fn settle_ties(ties: &[(String, String)], mapped: &mut Vec<Mapping>, unmet: &mut Vec<Unmet>) {
    let missing = |name: &String| Unmet::Missing { parameter: name.clone() };
    for (tied, partner) in ties {
        let held = |mapped: &[Mapping], name: &String| mapped.iter().position(|m| m.parameter.name == *name);
        match (held(mapped, tied), held(mapped, partner)) {
            (None, Some(_)) => unmet.retain(|u| *u != missing(tied)),
            (Some(at), None) => {
                let Some(place) = unmet.iter().position(|u| *u == missing(partner)) else { continue };
                unmet.remove(place);
                let mut standing = mapped[at].clone();
                standing.parameter.name.clone_from(partner);
                standing.parameter.presence = Presence::Required;
                standing.tensor.name.clone_from(partner);
                mapped.push(standing);
            }
            _ => {}
        }
    }
}

/// A tensor as the parameter it becomes; the shape it has instead where it does not fit.
fn derive(
    tensor: &TensorInfo,
    transform: Transform,
    parameter: &Parameter,
    heads: usize,
) -> Result<TensorInfo, Vec<usize>> {
    let mut derived = tensor.clone();
    derived.name.clone_from(&parameter.name);
    match transform {
        Transform::Same | Transform::Zero => {}
        Transform::Kernel => {
            let axes: &[usize] = match (parameter.role, tensor.shape.len()) {
                (Role::LinearWeight, 2) => &[1, 0],
                (Role::ConvWeight, 3) => &[2, 1, 0],
                _ => return Err(tensor.shape.clone()),
            };
            derived.shape = axes.iter().map(|&a| tensor.shape[a]).collect();
            derived.view = tensor.view.permuted(axes);
        }
        Transform::InProj { part } => derived = in_proj(tensor, part, heads).ok_or_else(|| tensor.shape.clone())?,
    }
    derived.name.clone_from(&parameter.name);
    if derived.shape == parameter.shape { Ok(derived) } else { Err(derived.shape) }
}

/// The query, key or value part of `in_proj` [3·H·D, …]: for each head D rows of each in turn.
fn in_proj(tensor: &TensorInfo, part: usize, heads: usize) -> Option<TensorInfo> {
    let (&rows, rest) = tensor.shape.split_first()?;
    let (&outer, inner) = tensor.view.dims.split_first()?;
    let head_size = rows.checked_div(heads.checked_mul(3)?)?;
    if head_size * heads * 3 != rows || outer.len != rows {
        return None;
    }
    let step = outer.stride;
    let mut dims = vec![Dim { len: heads, stride: 3 * head_size * step }, Dim { len: head_size, stride: step }];
    dims.extend(inner);
    let mut shape = vec![heads * head_size];
    shape.extend(rest);
    let view = View { offset: tensor.view.offset + part * head_size * step, dims };
    Some(TensorInfo { shape, view, ..tensor.clone() })
}
