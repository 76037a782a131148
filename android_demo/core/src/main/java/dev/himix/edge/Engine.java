package dev.himix.edge;

/** What computes: one runtime with a bundle's graphs and one KV cache. {@link Session} calls it from one thread at a time. */
interface Engine {
    /** S * S * 3 bytes of RGB -> the features stay in the engine, for {@link #inject}. */
    void encode(byte[] pixels);

    /** The features of the last {@link #encode} -> an image's keys and values. */
    ImageKV inject(String modelId);

    /** Empties the cache and fills its first slots with an image; null: with nothing. */
    void start(ImageKV vision);

    /** Appends tokens to the cache -> logits (V,) of the last one. Never called beyond the capacity. */
    float[] step(int[] tokens);

    /** Gives back graphs and memory; nothing is called afterwards. */
    void close();
}
