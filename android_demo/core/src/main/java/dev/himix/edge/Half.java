package dev.himix.edge;

/** IEEE 754 half precision in the bits of a short. */
final class Half {
    private static final int EXPONENTS = 0x1F;

    private Half() {}

    /** The nearest half, of two equally near the even one; beyond 65,504 infinity. */
    static short of(float value) {
        int bits = Float.floatToRawIntBits(value);
        int sign = bits >>> 16 & 0x8000;
        int exponent = (bits >>> 23 & 0xFF) - 127 + 15;
        int fraction = bits & 0x7FFFFF;
        if (exponent >= EXPONENTS) {
            boolean nan = Float.isNaN(value);
            return (short) (sign | EXPONENTS << 10 | (nan ? 0x200 : 0));
        }
        int shift = 13;
        if (exponent <= 0) { // below 2^-14: steps of 2^-24
            shift += 1 - exponent;
            if (shift > 24) {
                return (short) sign;
            }
            fraction |= 0x800000;
            exponent = 0;
        }
        int kept = exponent << 10 | fraction >> shift;
        int rest = fraction & (1 << shift) - 1;
        int half = 1 << shift - 1;
        if (rest > half || rest == half && (kept & 1) == 1) {
            kept++; // into the exponent, where the fraction overflows
        }
        return (short) (sign | kept);
    }

    /** The same number as a float. */
    static float toFloat(short half) {
        int sign = (half & 0x8000) << 16;
        int exponent = half >> 10 & EXPONENTS;
        int fraction = half & 0x3FF;
        if (exponent == EXPONENTS) {
            return Float.intBitsToFloat(sign | 0xFF << 23 | fraction << 13);
        }
        if (exponent == 0) {
            float small = fraction * 0x1p-24f;
            return sign == 0 ? small : -small;
        }
        return Float.intBitsToFloat(sign | exponent + 127 - 15 << 23 | fraction << 13);
    }
}
