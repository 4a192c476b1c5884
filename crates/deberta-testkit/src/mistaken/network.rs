//! The network around the attention, and what is kept of it.

use ndarray::{Array2, Array3, Array4, ArrayD, Axis, s};

use super::attention::{Head, Projected};
use super::{Intermediates, Mistake, Mistaken, Reads};

/// A step of a head: its name, whether the model has it, and where it is kept.
type Step = (&'static str, bool, fn(&Head) -> &Array2<f64>);

/// Rows of all sequences, one array each.
type States = Vec<Array2<f64>>;

fn erf(x: f64) -> f64 {
    // Maclaurin below 3; beyond, the continued fraction of erfc (Abramowitz and Stegun 7.1.5 and 7.1.14).
    if x.abs() > 3.0 {
        let mut fraction = 0.0;
        for n in (1..200).rev() {
            fraction = f64::from(n) / 2.0 / (x.abs() + fraction);
        }
        let tail = (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + fraction);
        return x.signum() * (1.0 - tail);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

fn activate(name: &str, x: f64) -> f64 {
    match name {
        "gelu" | "gelu_python" => x * 0.5 * (1.0 + erf(x / 2f64.sqrt())),
        "gelu_new" => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        "relu" => x.max(0.0),
        "tanh" => x.tanh(),
        other => panic!("the naive model knows no {other}"),
    }
}

fn stack(states: &States) -> ArrayD<f64> {
    let views: Vec<_> = states.iter().map(|s| s.view()).collect();
    ndarray::stack(Axis(0), &views).expect("sequences of one length").into_dyn()
}

impl Mistaken {
    /// A forward pass, wrong in one place or right.
    pub fn forward(&self, reads: &Reads, wrong: Option<Mistake>) -> Intermediates {
        let mut pass = Pass { model: self, reads, wrong, kept: Intermediates::new() };
        pass.run();
        pass.kept
    }
}

struct Pass<'m> {
    model: &'m Mistaken,
    reads: &'m Reads,
    wrong: Option<Mistake>,
    kept: Intermediates,
}

impl Pass<'_> {
    fn is(&self, mistake: Mistake) -> bool {
        self.wrong == Some(mistake)
    }

    fn keep(&mut self, name: &str, states: &States) {
        self.kept.insert(name.to_owned(), stack(states));
    }

    fn text(&self, key: &str, or: &'static str) -> String {
        self.model.config.get(key).and_then(|v| v.as_str()).unwrap_or(or).to_owned()
    }

    fn layers(&self) -> usize {
        self.model.number("num_hidden_layers").expect("a number of layers")
    }

    fn run(&mut self) {
        let embeddings = self.embeddings();
        let relative = self.relative();
        let mut hidden = embeddings.clone();
        let mut states = vec![hidden.clone()];
        let mut relative_now = relative.clone();
        for i in 0..self.layers() {
            if let Some(rows) = relative_now.as_mut().filter(|_| self.is(Mistake::RelativeNormEachLayer) && i > 0) {
                *rows = self.norm(rows, "deberta.encoder.LayerNorm");
            }
            let out = self.layer(i, &format!("deberta.encoder.layer.{i}"), &hidden, &hidden, relative_now.as_ref());
            hidden = self.after_layer(i, &embeddings, out);
            states.push(hidden.clone());
        }
        let listed = if self.is(Mistake::HiddenStatesWithoutEmbeddings) { &states[1..] } else { &states[..] };
        for (i, s) in listed.to_vec().iter().enumerate() {
            self.keep(&format!("hidden_states.{i}"), s);
        }
        self.keep("last_hidden_state", &hidden);
        self.heads(&states, relative.as_ref());
    }

    // Embeddings

    fn embeddings(&mut self) -> States {
        let model = self.model;
        let (size, length) = self.reads.input_ids.dim();
        let table = |name: &str| model.matrix(&format!("deberta.embeddings.{name}.weight"));
        let rows = |table: &Array2<f64>, id: &dyn Fn(usize, usize) -> usize| -> States {
            (0..size).map(|b| Array2::from_shape_fn((length, table.ncols()), |(i, e)| table[[id(b, i), e]])).collect()
        };
        let mut words = rows(&table("word_embeddings"), &|b, i| self.reads.input_ids[[b, i]]);
        if self.is(Mistake::WordsScaled) {
            words.iter_mut().for_each(|w| *w *= (w.ncols() as f64).sqrt());
        }
        if self.is(Mistake::ForeignPositionsAdded) {
            let row = |i: usize, e: usize| ((i * 31 + e * 17) as f64).sin();
            words.iter_mut().for_each(|w| w.indexed_iter_mut().for_each(|((i, e), x)| *x += row(i, e)));
        }
        self.keep("deberta.embeddings.word_embeddings", &words);
        let mut sum = words;
        if model.flag("position_biased_input").unwrap_or(true) && !self.is(Mistake::PositionsLeftOut) {
            let first = usize::from(self.is(Mistake::PositionsFrom1));
            let positions = rows(&table("position_embeddings"), &|_, i| i + first);
            self.keep("deberta.embeddings.position_embeddings", &positions);
            sum.iter_mut().zip(&positions).for_each(|(s, p)| *s += p);
        }
        if model.number("type_vocab_size").unwrap_or(0) > 0 && !self.is(Mistake::TypesIgnored) {
            let types = rows(&table("token_type_embeddings"), &|b, i| self.reads.token_type_ids[[b, i]]);
            self.keep("deberta.embeddings.token_type_embeddings", &types);
            sum.iter_mut().zip(&types).for_each(|(s, p)| *s += p);
        }
        if model.has("deberta.embeddings.embed_proj.weight") {
            sum = sum.iter().map(|s| self.dense(s, "deberta.embeddings.embed_proj")).collect();
            self.keep("deberta.embeddings.embed_proj", &sum);
        }
        let mut out: States = sum.iter().map(|s| self.norm(s, "deberta.embeddings.LayerNorm")).collect();
        self.keep("deberta.embeddings.LayerNorm", &out);
        if !self.is(Mistake::EmbeddingsNotMasked) {
            self.mask(&mut out);
        }
        if self.is(Mistake::Dropout) {
            for (b, rows) in out.iter_mut().enumerate() {
                for ((i, e), x) in rows.indexed_iter_mut() {
                    *x = if (b * 31 + i * 17 + e * 7).is_multiple_of(10) { 0.0 } else { *x / 0.9 };
                }
            }
        }
        self.keep("deberta.embeddings", &out);
        out
    }

    fn mask(&self, states: &mut States) {
        for (b, rows) in states.iter_mut().enumerate() {
            for (i, mut row) in rows.outer_iter_mut().enumerate() {
                if self.reads.attention_mask[[b, i]] == 0 {
                    row.fill(0.0);
                }
            }
        }
    }

    fn dense(&self, x: &Array2<f64>, name: &str) -> Array2<f64> {
        let mut weight = self.model.matrix(&format!("{name}.weight"));
        if self.is(Mistake::WordHeadRandom) && name.ends_with("lm_head.dense") {
            weight = Array2::from_shape_fn(weight.dim(), |(o, i)| ((o * 37 + i * i * 11) as f64).sin() / 50.0);
        }
        let mut out = x.dot(&weight.t());
        let bias = format!("{name}.bias");
        let left_out = match self.wrong {
            Some(Mistake::ValueBiasLeftOut) => name.ends_with("value_proj"),
            Some(Mistake::OutputBiasLeftOut) => name.ends_with("layer.0.output.dense"),
            Some(Mistake::ClassifierBiasLeftOut) => name == "classifier",
            _ => false,
        };
        if self.model.has(&bias) && !left_out {
            out += &self.model.vector(&bias);
        }
        out
    }

    fn norm(&self, x: &Array2<f64>, name: &str) -> Array2<f64> {
        let eps = match self.wrong {
            Some(Mistake::Epsilon1e5) => 1e-5,
            Some(Mistake::Epsilon1e12) => 1e-12,
            _ => self.model.config.get("layer_norm_eps").and_then(|v| v.as_f64()).unwrap_or(1e-7),
        };
        let (weight, bias) = (self.model.vector(&format!("{name}.weight")), self.model.vector(&format!("{name}.bias")));
        let mut out = x.clone();
        let n = x.ncols() as f64;
        // The eight leading bits, and half of the last of them upward: bf16 of what is no tie.
        let bf16 = |v: f64| f64::from(f32::from_bits(((v as f32).to_bits() + 0x8000) & 0xffff_0000));
        let kept = |v: f64| if self.is(Mistake::StatisticsInBf16) { bf16(v) } else { v };
        for mut row in out.outer_iter_mut() {
            let mean = kept(row.iter().sum::<f64>() / n);
            let over = if self.is(Mistake::UnbiasedVariance) { n - 1.0 } else { n };
            let variance = kept(row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / over);
            for (c, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) / (variance + eps).sqrt() * weight[c] + bias[c];
            }
        }
        out
    }

    fn relative(&mut self) -> Option<Array2<f64>> {
        if !self.model.flag("relative_attention").unwrap_or(false) {
            return None;
        }
        let rows = self.model.matrix("deberta.encoder.rel_embeddings.weight");
        self.kept.insert("deberta.encoder.rel_embeddings".to_owned(), rows.clone().into_dyn());
        if !self.text("norm_rel_ebd", "none").contains("layer_norm") || self.is(Mistake::RelativeNormLeftOut) {
            return Some(rows);
        }
        let mut out = self.norm(&rows, "deberta.encoder.LayerNorm");
        if self.is(Mistake::RelativeNormTwice) {
            out = self.norm(&out, "deberta.encoder.LayerNorm");
        }
        self.kept.insert("deberta.encoder.LayerNorm".to_owned(), out.clone().into_dyn());
        Some(out)
    }

    // Layers

    fn layer(
        &mut self,
        i: usize,
        name: &str,
        keys: &States,
        queries: &States,
        relative: Option<&Array2<f64>>,
    ) -> States {
        let layer = format!("deberta.encoder.layer.{}", i.min(self.layers() - 1));
        let at = format!("{name}.attention.self");
        let projected: Vec<Projected> =
            keys.iter().zip(queries).map(|(k, q)| self.project(&layer, k, q, relative)).collect();
        for (suffix, of) in [
            ("query_proj", (|p: &Projected| p.q.clone()) as fn(&Projected) -> Array2<f64>),
            ("key_proj", |p| p.k.clone()),
            ("value_proj", |p| p.v.clone()),
        ] {
            self.keep(&format!("{at}.{suffix}"), &projected.iter().map(of).collect());
        }
        for (suffix, rows) in [("pos_key_proj", &projected[0].pos_k), ("pos_query_proj", &projected[0].pos_q)] {
            if let Some(rows) = rows {
                self.kept.insert(format!("{at}.{suffix}"), rows.clone().insert_axis(Axis(0)).into_dyn());
            }
        }
        let number = self.model.number("num_attention_heads").expect("a number of heads");
        let heads: Vec<Vec<Head>> = (0..projected.len())
            .map(|b| {
                let mask: Vec<bool> = self.reads.attention_mask.row(b).iter().map(|m| *m != 0).collect();
                (0..number).map(|h| self.model.head(&projected[b], h, &mask, self.wrong)).collect()
            })
            .collect();
        self.keep_heads(&at, i, &heads, projected[0].pos_k.is_some(), projected[0].pos_q.is_some());
        let context: States = heads.iter().map(|h| Mistaken::merge(h, self.wrong)).collect();
        self.keep(&at, &context);

        let attended =
            self.output(&format!("{name}.attention.output"), &format!("{layer}.attention.output"), &context, queries);
        self.keep(&format!("{name}.attention"), &attended);
        let inner: States = attended.iter().map(|x| self.dense(x, &format!("{layer}.intermediate.dense"))).collect();
        self.keep(&format!("{name}.intermediate.dense"), &inner);
        let act = match self.wrong {
            Some(Mistake::GeluTanh) => "gelu_new".to_owned(),
            Some(Mistake::Relu) => "relu".to_owned(),
            _ => self.text("hidden_act", "gelu"),
        };
        let inner: States = inner.iter().map(|x| x.mapv(|v| activate(&act, v))).collect();
        self.keep(&format!("{name}.intermediate.intermediate_act_fn"), &inner);
        self.keep(&format!("{name}.intermediate"), &inner);
        let residual = if self.is(Mistake::ResidualFromLayerInput) { queries } else { &attended };
        let out = self.output(&format!("{name}.output"), &format!("{layer}.output"), &inner, residual);
        self.keep(name, &out);
        out
    }

    fn project(
        &self,
        layer: &str,
        keys: &Array2<f64>,
        queries: &Array2<f64>,
        relative: Option<&Array2<f64>>,
    ) -> Projected {
        let name = |leaf: &str| format!("{layer}.attention.self.{leaf}");
        let keys = if self.is(Mistake::DecoderKeysFromQueries) { queries } else { keys };
        let mut q = self.dense(queries, &name("query_proj"));
        let (mut k, mut v) = (self.dense(keys, &name("key_proj")), self.dense(keys, &name("value_proj")));
        match self.wrong {
            Some(Mistake::QueryTransposed) => {
                let weight = self.model.matrix(&name("query_proj.weight"));
                q = queries.dot(&weight) + &self.model.vector(&name("query_proj.bias"));
            }
            Some(Mistake::KeyValueExchanged) => std::mem::swap(&mut k, &mut v),
            Some(Mistake::QueryKeyExchanged) => std::mem::swap(&mut q, &mut k),
            Some(Mistake::InProjInThirds) => {
                let parts =
                    ["query_proj", "key_proj", "value_proj"].map(|p| self.model.matrix(&name(&format!("{p}.weight"))));
                let heads = self.model.number("num_attention_heads").expect("a number of heads");
                let (width, d) = (parts[0].nrows(), parts[0].nrows() / heads);
                let third = |t: usize| {
                    Array2::from_shape_fn((width, parts[0].ncols()), |(r, c)| {
                        let at = t * width + r;
                        parts[at % (3 * d) / d][[at / (3 * d) * d + at % d, c]]
                    })
                };
                let bias = |p: &str| self.model.vector(&name(&format!("{p}.bias")));
                q = queries.dot(&third(0).t()) + &bias("query_proj");
                k = keys.dot(&third(1).t()) + &bias("key_proj");
                v = keys.dot(&third(2).t()) + &bias("value_proj");
            }
            _ => {}
        }
        let types = self.model.config.get("pos_att_type").map(ToString::to_string).unwrap_or_default().to_lowercase();
        let shared = self.model.flag("share_att_key").unwrap_or(false);
        let rows = |on: bool, shared_name: &str, own: &str| {
            let relative = relative.filter(|_| on)?;
            let leaf = name(if shared { shared_name } else { own });
            let mut out = self.dense(relative, &leaf);
            if self.is(Mistake::RelativeBiasLeftOut) {
                out -= &self.model.vector(&format!("{leaf}.bias"));
            }
            Some(out)
        };
        let pos_k = rows(types.contains("c2p"), "key_proj", "pos_key_proj");
        let pos_q = rows(types.contains("p2c"), "query_proj", "pos_query_proj");
        Projected { q, k, v, pos_k, pos_q }
    }

    fn keep_heads(&mut self, at: &str, i: usize, heads: &[Vec<Head>], c2p: bool, p2c: bool) {
        let matrix = |of: fn(&Head) -> &Array2<f64>| {
            let length = heads[0][0].c2c.nrows();
            let mut out = Array4::zeros((heads.len(), heads[0].len(), length, length));
            for (b, row) in heads.iter().enumerate() {
                for (h, head) in row.iter().enumerate() {
                    out.slice_mut(s![b, h, .., ..]).assign(of(head));
                }
            }
            out.into_dyn()
        };
        let steps: [Step; 5] = [
            ("c2c", true, |h| &h.c2c),
            ("c2p", c2p, |h| &h.c2p),
            ("p2c", p2c, |h| &h.p2c),
            ("scores", true, |h| &h.scores),
            ("probs", true, |h| &h.probs),
        ];
        for (name, _, of) in steps.into_iter().filter(|s| s.1) {
            self.kept.insert(format!("{at}.{name}"), matrix(of));
        }
        if at.starts_with("deberta") {
            self.kept.insert(format!("attentions.{i}"), matrix(|h| &h.probs));
        }
    }

    /// LayerNorm(dense(x) + residual)
    fn output(&mut self, name: &str, weights: &str, x: &States, residual: &States) -> States {
        let dense: States = x.iter().map(|x| self.dense(x, &format!("{weights}.dense"))).collect();
        self.keep(&format!("{name}.dense"), &dense);
        let attention = name.ends_with("attention.output");
        let out: States = dense
            .iter()
            .zip(residual)
            .map(|(d, r)| {
                let sum = if attention && self.is(Mistake::AttentionResidualLeftOut) { d.clone() } else { d + r };
                if !attention && self.is(Mistake::OutputNormLeftOut) {
                    return sum;
                }
                self.norm(&sum, &format!("{weights}.LayerNorm"))
            })
            .collect();
        self.keep(&format!("{name}.LayerNorm"), &out);
        self.keep(name, &out);
        out
    }

    fn after_layer(&mut self, i: usize, embeddings: &States, out: States) -> States {
        let here = match self.wrong {
            Some(Mistake::ConvolutionLeftOut) => false,
            Some(Mistake::ConvolutionEveryLayer) => true,
            Some(Mistake::ConvolutionAfterLayer1) => i == 1,
            _ => i == 0,
        };
        if self.model.number("conv_kernel_size").unwrap_or(0) == 0 || !here {
            return out;
        }
        let from = if self.is(Mistake::ConvolutionOfLayerOutput) { &out } else { embeddings };
        let mut convolved: States = from.iter().map(|x| self.convolve(x)).collect();
        let channels: Array3<f64> = stack(&convolved).into_dimensionality().expect("three axes");
        let first = !self.kept.contains_key("deberta.encoder.conv.conv");
        if first {
            let turned = channels.permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
            self.kept.insert("deberta.encoder.conv.conv".to_owned(), turned.into_dyn());
        }
        if !self.is(Mistake::ConvolutionUnmasked) {
            self.mask(&mut convolved);
        }
        if first {
            self.keep("deberta.encoder.conv.dropout", &convolved);
        }
        let act = if self.is(Mistake::ConvolutionGelu) { "gelu".to_owned() } else { self.text("conv_act", "tanh") };
        let mut normed: States = convolved
            .iter()
            .zip(&out)
            .map(|(c, o)| self.norm(&(c.mapv(|v| activate(&act, v)) + o), "deberta.encoder.conv.LayerNorm"))
            .collect();
        if first {
            self.keep("deberta.encoder.conv.LayerNorm", &normed);
        }
        self.mask(&mut normed);
        if first {
            self.keep("deberta.encoder.conv", &normed);
        }
        normed
    }

    fn convolve(&self, x: &Array2<f64>) -> Array2<f64> {
        let weight: Array3<f64> =
            self.model.weights["deberta.encoder.conv.conv.weight"].clone().into_dimensionality().expect("three axes");
        let bias = self.model.vector("deberta.encoder.conv.conv.bias");
        let groups = self.model.number("conv_groups").unwrap_or(1);
        let (outputs, per_group, k) = weight.dim();
        Array2::from_shape_fn((x.nrows(), outputs), |(i, o)| {
            let group = o / (outputs / groups);
            let mut sum = bias[o];
            for t in 0..k {
                let at = i as i64 + t as i64 - (k as i64 - 1) / 2;
                if at >= 0 && (at as usize) < x.nrows() {
                    for c in 0..per_group {
                        sum += weight[[o, c, t]] * x[[at as usize, group * per_group + c]];
                    }
                }
            }
            sum
        })
    }

    // Heads

    fn heads(&mut self, states: &[States], relative: Option<&Array2<f64>>) {
        let last = states.last().expect("at least the embeddings").clone();
        if self.model.has("pooler.dense.weight") {
            let rows = |x: &Array2<f64>| match self.wrong {
                Some(Mistake::PoolerMean) => x.mean_axis(Axis(0)).expect("tokens"),
                _ => x.row(0).to_owned(),
            };
            let first: Vec<_> = last.iter().map(rows).collect();
            let views: Vec<_> = first.iter().map(|r| r.view()).collect();
            let first = ndarray::stack(Axis(0), &views).expect("rows of one width");
            let dense = self.dense(&first, "pooler.dense");
            self.kept.insert("pooler.dense".to_owned(), dense.clone().into_dyn());
            let act =
                if self.is(Mistake::PoolerTanh) { "tanh".to_owned() } else { self.text("pooler_hidden_act", "gelu") };
            let pooled = dense.mapv(|v| activate(&act, v));
            self.kept.insert("pooler".to_owned(), pooled.clone().into_dyn());
            let logits = self.dense(&pooled, "classifier");
            self.kept.insert("logits".to_owned(), logits.into_dyn());
        }
        if self.model.has("lm_predictions.lm_head.dense.weight") {
            self.decoder(states, relative);
        }
    }

    /// The enhanced mask decoder and its words.
    fn decoder(&mut self, states: &[States], relative: Option<&Array2<f64>>) {
        let last = self.layers();
        let from = if self.is(Mistake::DecoderOfLastLayer) { &states[last] } else { &states[last - 1] };
        let table = self.model.matrix("deberta.embeddings.position_embeddings.weight");
        let mut z: States = from.iter().map(|x| x + &table.slice(s![..x.nrows(), ..])).collect();
        if self.is(Mistake::DecoderStatesNormed) {
            z = z.iter().map(|x| self.norm(x, "deberta.embeddings.LayerNorm")).collect();
        }
        self.keep("lm_predictions.z_states", &z);
        let passes = if self.is(Mistake::DecoderOnePass) { 1 } else { 2 };
        for pass in 0..passes {
            z = self.layer(last - 1, &format!("lm_predictions.emd.{pass}"), from, &z, relative);
        }
        let head = "lm_predictions.lm_head";
        let dense: States = z.iter().map(|x| self.dense(x, &format!("{head}.dense"))).collect();
        self.keep(&format!("{head}.dense"), &dense);
        let act = self.text("hidden_act", "gelu");
        let acted: States = dense.iter().map(|x| x.mapv(|v| activate(&act, v))).collect();
        let normed: States = acted.iter().map(|x| self.norm(x, &format!("{head}.LayerNorm"))).collect();
        self.keep(&format!("{head}.LayerNorm"), &normed);
        let words = self.model.matrix("deberta.embeddings.word_embeddings.weight");
        let bias = self.model.vector(&format!("{head}.bias"));
        let logits: States = normed.iter().map(|x| x.dot(&words.t()) + &bias).collect();
        self.keep("logits", &logits);
    }
}
