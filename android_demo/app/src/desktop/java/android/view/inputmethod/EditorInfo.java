package android.view.inputmethod;

public class EditorInfo {}
