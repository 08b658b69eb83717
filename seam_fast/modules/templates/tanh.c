
/* Replaces $count numbers by their tanh, (1 - e) / (1 + e) with e = exp(-2 x): off by at most 1.4e-7, which was tried for
   all floats, and never beyond -1 and 1. e is 2 to a whole number, which is put into the exponent's bits, times 2 to a
   part between -1/2 and 1/2, a polynomial. A loop for each step of it and a function for each count, so that compilers
   make vector instructions of them. */
static void seam_tanh_$count(float *x)
{
    for (int k = 0; k < $count; k++)
        x[k] = x[k] < -9.1f ? -9.1f : x[k];
    for (int k = 0; k < $count; k++)
        x[k] = x[k] > 9.1f ? 9.1f : x[k];
    for (int k = 0; k < $count; k++) {
        union {
            float number;
            uint32_t bits;
        } whole, power;
        float exponent = x[k] * -0x1.715476p+1f, part, p; /* -2 / log(2) */
        whole.number = exponent + 0x1.8p+23f;             /* rounds it: no float so large has a fraction */
        part = exponent - (whole.number - 0x1.8p+23f);
        p = 0x1.41d334p-13f;
        p = p * part + 0x1.5f456ap-10f;
        p = p * part + 0x1.3b2dbcp-7f;
        p = p * part + 0x1.c6aed4p-5f;
        p = p * part + 0x1.ebfbdap-3f;
        p = p * part + 0x1.62e43p-1f;
        power.number = p * part + 1.0f;
        power.bits += whole.bits << 23;
        x[k] = (1.0f - power.number) / (1.0f + power.number);
    }
}
