package dev.himix.edge;

/** Input that cannot be used. The message is one line for the person at the screen: what, where, what to do. */
public class InputException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public InputException(String message) {
        super(message);
    }
}
