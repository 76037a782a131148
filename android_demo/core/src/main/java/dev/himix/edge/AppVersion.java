package dev.himix.edge;

/** The demo's version, the project's own. */
public final class AppVersion {
    public static final String NAME = "0.1.0";

    private AppVersion() {}
}
