//! Elementary functions over slices of `f32`, written so that the compiler vectorizes them, for the widest vectors the
//! processor has.
//!
//! eˣ: x = n·ln 2 + r with |r| ≤ ln 2 / 2, a polynomial for eʳ, and 2ⁿ laid into the exponent. One unit in the last
//! place at most.
//!
//! erf: a polynomial in x² below 475/512, and 1 − e^p(|x|) above, with the coefficients that N. Juffa published for a
//! single-precision `erff` (Stack Overflow, question 35148198). One unit in the last place at most.

use crate::dispatch::dispatched;

dispatched! {
    /// Replaces each x by eˣ.
    pub(crate) fn exp(values: &mut [f32]) = exp_each
}

#[inline(always)]
fn exp_each(values: &mut [f32]) {
    values.iter_mut().for_each(|v| *v = exp_one(*v));
}

dispatched! {
    /// Replaces each x by x/2 · (1 + erf(x/√2)).
    pub(crate) fn gelu(values: &mut [f32]) = gelu_each
}

#[inline(always)]
fn gelu_each(values: &mut [f32]) {
    values.iter_mut().for_each(|v| *v = gelu_one(*v));
}

/// Adding and subtracting this rounds an `f32` below 2²² to the nearest whole number.
const ROUNDER: f32 = 12_582_912.0;

#[inline(always)]
fn exp_one(x: f32) -> f32 {
    // Beyond these the result is 0 or infinite whatever the digits; NaN passes both comparisons unchanged.
    let held = if x > 89.0 { 89.0 } else { x };
    let held = if held < -104.0 { -104.0 } else { held };
    let (y, n) = exp_parts(held);
    // 2ⁿ in two halves, so that subnormal results are reached and infinity is too.
    let half = (n * 0.5).floor();
    y * power_of_two(half) * power_of_two(n - half)
}

/// y and n, of which eˣ is y·2ⁿ.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, f32) {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let n = x.mul_add(std::f32::consts::LOG2_E, ROUNDER) - ROUNDER;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    (p.mul_add(r * r, r) + 1.0, n)
}

/// 2ⁿ for whole n in −126 … 127.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    // The bits of n + 127 stand in the low mantissa of n + 127 + 2²³.
    f32::from_bits((n + 8_388_735.0).to_bits() << 23)
}

#[inline(always)]
fn erf_one(x: f32) -> f32 {
    let (t, s) = (x.abs(), x * x);
    let near = {
        let mut r = -5.967_617e-4_f32;
        r = r.mul_add(s, 4.991_194_2e-3);
        r = r.mul_add(s, -2.676_813_5e-2);
        r = r.mul_add(s, 1.128_199_25e-1);
        r = r.mul_add(s, -3.761_253_4e-1);
        r = r.mul_add(s, 1.283_791_7e-1);
        r.mul_add(x, x)
    };
    let far = {
        // Above 4 the result is 1 to the last digit, and the polynomial would leave its range.
        let t = if t > 4.0 { 4.0 } else { t };
        let s = t * t;
        let r = (-1.728_534_7e-5_f32).mul_add(t, 3.831_971_3e-4);
        let u = (-3.883_964_4e-3_f32).mul_add(t, 2.425_462_2e-2);
        let mut r = r.mul_add(s, u);
        r = r.mul_add(t, -1.067_778_8e-1);
        r = r.mul_add(t, -6.348_467e-1);
        r = r.mul_add(t, -1.287_175_1e-1);
        // The exponent lies between −17 and 0.
        let (y, n) = exp_parts(r.mul_add(t, -t));
        (1.0 - y * power_of_two(n)).copysign(x)
    };
    if t > 0.927_734_4 { far } else { near }
}

#[inline(always)]
fn gelu_one(x: f32) -> f32 {
    0.5 * x * (1.0 + erf_one(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(a: f32, b: f64) -> f64 {
        let unit =
            f64::from(f32::EPSILON) * 2f64.powi((b.abs().max(f64::from(f32::MIN_POSITIVE))).log2().floor() as i32);
        (f64::from(a) - b).abs() / unit
    }

    /// Every 97th `f32` of a range, both signs.
    fn grid(limit: f32) -> impl Iterator<Item = f32> {
        (0..limit.to_bits()).step_by(9973).map(f32::from_bits).flat_map(|x| [x, -x])
    }

    #[test]
    fn exponentials_are_right_to_a_unit() {
        for x in grid(104.0) {
            let mut y = [x; 17];
            exp(&mut y);
            let expected = f64::from(x).exp();
            if expected > f64::from(f32::MAX) {
                assert_eq!(y[3], f32::INFINITY, "exp({x})");
            } else {
                assert!(ulps(y[3], expected) <= 1.5, "exp({x}) = {} and not {expected}", y[3]);
            }
            assert!(y.iter().all(|v| v.to_bits() == y[0].to_bits()), "the same in every lane");
        }
        let mut special = [f32::NEG_INFINITY, f32::MIN, f32::INFINITY, f32::NAN, 0.0];
        exp(&mut special);
        assert_eq!(special[..3], [0.0, 0.0, f32::INFINITY]);
        assert!(special[3].is_nan() && special[4] == 1.0);
    }

    #[test]
    fn gelu_is_right_to_its_largest_term() {
        for x in grid(40.0) {
            let mut y = [x; 5];
            gelu(&mut y);
            let x = f64::from(x);
            let expected = 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
            // 1 + erf cancels for negative x: what can be asked is the precision of x/2.
            let tolerance = 2.0 * f64::from(f32::EPSILON) * x.abs().max(f64::from(f32::MIN_POSITIVE));
            assert!((f64::from(y[1]) - expected).abs() <= tolerance, "gelu({x}) = {} and not {expected}", y[1]);
        }
        let mut special = [f32::NAN, 0.0, 1e30];
        gelu(&mut special);
        assert!(special[0].is_nan());
        assert_eq!(special[1..], [0.0, 1e30]);
    }
}
