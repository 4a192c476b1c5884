//! One function, compiled for several kinds of vector, and the choice between them at run time.

/// Defines a function that calls `body`, which is `#[inline(always)]`, compiled for the widest vectors the processor has.
macro_rules! dispatched {
    ($(#[$doc:meta])* $visible:vis fn $name:ident $(<$number:ident>)? ($($argument:ident: $type:ty),* $(,)?)
     $(-> $result:ty)? = $body:ident) => {
        $(#[$doc])*
        $visible fn $name $(<$number: $crate::Real>)? ($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
                fn wide $(<$number: $crate::Real>)? ($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn middle $(<$number: $crate::Real>)? ($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: the processor has what the function is compiled for, as was just asked.
                    return unsafe { wide($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { middle($($argument),*) };
                }
            }
            $body($($argument),*)
        }
    };
}

pub(crate) use dispatched;

/// To be called in each step of a loop over rows of lanes, so that the compiler makes one vector of a row. Without it, it may make
/// vectors of what lies in one lane of many rows, which AVX-512 gathers and scatters: the same result, several times slower.
#[inline(always)]
pub(crate) fn row_by_row() {
    // No instruction; but no loop is vectorized across it.
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}
